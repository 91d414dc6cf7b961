"""An experiment and the rows it ends in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isocline.experiments.lab.job import Job


@dataclass(frozen=True)
class Row:
    """One line of the table of results.

    Args:
        what: the model and the quantity, "ODE-Net: test error".
        ours: as measured.
        unit: "%", "nats", "s"; "" for a plain number.
        published: the number in the source; None where it has none.
        bound: what a perfect model would score (an entropy, a noise level, a closed form); None where not known.
        note: what differs from the source, and why a number falls short of it.

    Example:
        >>> Row("latent ODE, 30 observations: RMSE", 0.17, published=0.1642).ours
        0.17
    """

    what: str
    ours: float
    unit: str = ""
    published: float | None = None
    bound: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Experiment:
    """A published experiment that one command reproduces; every module of `isocline.experiments` has one, `EXPERIMENT`.

    Args:
        title: a line for a list.
        source: author, year, section.
        run: does all of it and returns the rows; what it keeps in the job it does not do again.
        data: names of the data sets it needs, see `isocline.experiments.lab.datasets`.
        threads: of PyTorch; 1 suits small fields. 0: all cores.
        devices: kinds it can run on, by PyTorch's names; most fields are too small for anything but a processor.
    """

    title: str
    source: str
    run: Callable[[Job], Sequence[Row]]
    data: tuple[str, ...] = ()
    threads: int = 1
    devices: tuple[str, ...] = ("cpu",)
