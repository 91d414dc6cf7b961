"""The units of a model, where they are not those of its data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Coordinates:
    """How a model's states x and its time s stand to the user's y and t: x = (g(y) − mean) / sd, s = (t − t0) / tau.

    Attributes:
        logs: of each state, whether g is the natural logarithm, else the identity.
        means, sds: of each state.
        tau: the unit of the model's time.

    Example:
        >>> from isocline.export import Coordinates
        >>> Coordinates((True, False), (0.0, 1.0), (1.0, 2.0), 3.0).tau
        3.0
    """

    logs: tuple[bool, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]
    tau: float
