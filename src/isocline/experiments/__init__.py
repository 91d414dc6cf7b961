"""Published experiments, one a file: its data, its model, its training, the published number and ours.

Every module beside `lab` defines `EXPERIMENT`; `isocline reproduce NAME` runs it, its name being the module's with
hyphens.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isocline.experiments.lab import Experiment


def names() -> list[str]:
    """Of all experiments.

    Example:
        >>> "cubic-spiral" in names()
        True
    """
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if m.name != "lab")


def find(name: str) -> Experiment:
    """The experiment of a name; ValueError for an unknown one, with the names there are."""
    if name not in names():
        raise ValueError(f"no experiment {name!r}; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").EXPERIMENT
