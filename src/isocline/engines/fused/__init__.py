"""The fused engine: a field as a tile program (`trace`), its derivative (`derive`), and the machine that solves with both."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fused:
    """The fused engine, `engine="fused"`, with settings.

    With `specialise` the field and its derivative are compiled to machine code of their own, in the background, from the
    first solve on; until they are there, and where the compiler fails, which is logged, the machine interprets them as it
    does otherwise. Later processes find them in the cache. The numbers are the same to rounding.

    It is for fields that are a handful of scalar operations (Lorenz, Lotka–Volterra) and are solved for many samples or many
    times: there it is several times faster. Networks gain little: what they compute is in products with matrices, which are
    the machine's own either way.

    Args:
        specialise: False; True; or "wait": the first solve waits for the compiler, some seconds.

    Example:
        >>> import torch, isocline
        >>> engine = isocline.Fused(specialise=True)
        >>> y0 = torch.ones(3, 1)
        >>> sol = isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], engine=engine, batching="per_sample", rtol=1e-6)
        >>> [round(x, 4) for x in sol.ys[-1, :, 0].tolist()]
        [0.3679, 0.3679, 0.3679]
    """

    specialise: bool | str = False

    def __post_init__(self) -> None:
        if self.specialise not in (False, True, "wait"):
            raise ValueError(f"specialise={self.specialise!r}: expected False, True or 'wait'")
