"""Whom to cite: the sources that the docstrings of methods and models name."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

from isocline.control import Controller
from isocline.gradients import Gradient
from isocline.solvers import Solver

PART = (Solver, Gradient, Controller)


def cite(*parts: Any) -> str:
    """The literature behind what was used, a line each.

    Args:
        *parts: solvers, gradients, controllers and models, or their classes, or names of solvers and gradients. What a
            part is made of (the solver inside `Reversible`, the options of a model) is cited with it.

    Returns:
        A line "Name: source" of each part, in the order given and once; parts without a source of their own are left out.

    Raises:
        ValueError: for a name that is neither a solver's nor a gradient's.
        TypeError: for anything else.

    Example:
        >>> import isocline
        >>> print(isocline.cite("bosh3", isocline.Checkpointed()))
        Bosh3: P. Bogacki, L. F. Shampine, A 3(2) pair of Runge–Kutta formulas, Appl. Math. Lett. 2 (1989).
        Checkpointed: A. Griewank, A. Walther, Algorithm 799: revolve, ACM Trans. Math. Softw. 26 (2000), under a budget.
    """
    found: dict[str, str] = {}
    for part in parts:
        for kind in _kinds(part):
            text = re.search(r"\bSources?: (.*?)(?:\n\s*\n|\Z)", inspect.getdoc(kind) or "", re.DOTALL)
            if text is not None:
                found.setdefault(kind.__name__, " ".join(text[1].split()))
    return "\n".join(f"{name}: {source}" for name, source in found.items())


def _kinds(part: Any) -> Iterator[type]:
    """The class of a part, and those of what it is made of."""
    if isinstance(part, str):
        named = Solver.registry.get(part) or Gradient.registry.get(part)
        if named is None:
            names = ", ".join([*sorted(Solver.registry), *sorted(Gradient.registry)])
            raise ValueError(f"cite: no solver or gradient {part!r}; there are {names}")
        yield named
    elif isinstance(part, type):
        yield part
    elif isinstance(part, PART):
        yield type(part)
        for field in dataclasses.fields(part) if dataclasses.is_dataclass(part) else ():
            inner = getattr(part, field.name)
            if isinstance(inner, PART):
                yield from _kinds(inner)
    elif hasattr(part, "options") and hasattr(part, "parameters"):  # a model
        yield type(part)
        for inner in part.options.values():
            if isinstance(inner, PART) or (
                isinstance(inner, str) and inner in {**Solver.registry, **Gradient.registry}
            ):
                yield from _kinds(inner)
    else:
        raise TypeError(f"cite: got {type(part).__name__}, expected a solver, gradient, controller or model, or a name")
