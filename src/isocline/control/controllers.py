"""Controllers: how long is the next step, and was this one good enough?"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Norm = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Controller:
    """Base of the two kinds: steps known beforehand (`FixedStep`) and steps chosen by an error estimate (`PID`).

    Example:
        >>> isinstance(PID(1e-3, 1e-6), Controller), isinstance(FixedStep(0.1), Controller)
        (True, True)
    """


@dataclass(frozen=True)
class FixedStep(Controller):
    """Steps known before the solve.

    Args:
        step: length of a step from t0 on, whatever the observation times; the last one is shorter. In units of time.
        max_step: instead: between neighbouring observation times, n = ⌈|Δt| / max_step⌉ equal steps (the rounding of
            "Neural ODE from scratch", h_max = 0.05 there). `math.inf` takes one step an interval.

    Raises:
        ValueError: unless exactly one of the two is given and positive.

    Example:
        >>> FixedStep(0.4).grid([0.0, 1.0])
        [0.0, 0.4, 0.8, 1.0]
        >>> FixedStep(max_step=0.4).grid([0.0, 1.0, 1.2])
        [0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 1.2]
    """

    step: float | None = None
    max_step: float | None = None

    def __post_init__(self) -> None:
        if (self.step is None) == (self.max_step is None):
            raise ValueError(f"FixedStep: give exactly one of step={self.step} and max_step={self.max_step}")
        name, value = ("step", self.step) if self.step is not None else ("max_step", self.max_step)
        if not (isinstance(value, (int, float)) and value > 0) or (name == "step" and math.isinf(value)):
            raise ValueError(
                f"FixedStep: {name}={value!r}, expected a positive {'finite ' if name == 'step' else ''}number"
            )

    def grid(self, ts: Sequence[float], extra: Sequence[float] = ()) -> list[float]:
        """All step ends, from the first to the last of `ts`, `extra` times included."""
        t0, t1 = ts[0], ts[-1]
        if self.step is not None:
            # t0 + k·step, not a running sum: rounding does not accumulate. The tolerance keeps 0.3/0.1 at 3 steps.
            count = math.ceil(abs(t1 - t0) / self.step * (1 - 1e-12))
            h = math.copysign(self.step, t1 - t0)
            grid = [*(t0 + k * h for k in range(count)), t1] if count else [t0]
        else:
            assert self.max_step is not None
            grid = [t0]
            for a, b in itertools.pairwise(ts):
                count = max(1, math.ceil(abs(b - a) / self.max_step * (1 - 1e-12)))
                grid += [*(a + (b - a) * k / count for k in range(1, count)), b]
        inside = sorted(t for t in extra if min(t0, t1) < t < max(t0, t1))
        if inside and self.step is not None:
            # A grid point that misses a given time by rounding would make a step of no length.
            near = 1e-10 * self.step
            grid = [t for t in grid if t in (t0, t1) or bisect_left(inside, t - near) == bisect_right(inside, t + near)]
        return sorted({*grid, *inside}, reverse=t1 < t0)


@dataclass(frozen=True)
class PID(Controller):
    """Steps chosen by an error estimate; Söderlind's PID controller.

    With r the norm of the error over its tolerance and δ = 1/r, the next step is h times
    safety · δ_n^((P+I+D)/k) · δ_{n−1}^(−(P+2D)/k) · δ_{n−2}^(D/k), k the order of the error estimate plus one.
    A step is accepted where r ≤ 1.

    Args:
        rtol: relative tolerance, a number or a tensor (pytree) that broadcasts to the state; None: by dtype,
            1e-5 for 32-bit states, 1e-7 for 64-bit, 1e-2 for half precision.
        atol: absolute tolerance likewise; None: 1e-6, 1e-9, 1e-3. One of the two may be 0.
        pcoeff, icoeff, dcoeff: the default (0, 1, 0) is I control, what most codes do; `PID.pi()` is smoother on
            mildly stiff problems. The two settle at different errors for the same tolerance: compare solvers at
            equal error, not at equal tolerance.
        min_step, max_step: bounds of |h|, in units of time. A step that would have to be shorter than `min_step` fails.
        force_min_step: instead, take steps of `min_step` whatever their error, unless that is NaN or infinite.
        first_step: |h| of the first step; None: Hairer's rule, two evaluations of which one serves the first stage.
        safety: 0 < safety < 1.
        min_factor, max_factor: bounds of the change of h in one step, 0 < min_factor < 1 < max_factor. After a
            rejected step h shrinks at least by `safety`, after an accepted one it does not shrink.
        norm: of the error over its tolerance: from the flat state (N,) to a 0-d tensor; with per-sample batching from
            (B, N) to (B,). None: root mean square, real and imaginary parts counted as two numbers.

    Raises:
        ValueError: naming the setting that is out of range.

    Source: G. Söderlind, ACM Trans. Math. Softw. 29 (2003); Hairer, Nørsett & Wanner I, II.4.

    Example:
        >>> import torch, isocline
        >>> sol = isocline.solve(lambda t, y: -y, torch.ones(2), [0.0, 1.0], controller=PID(rtol=1e-3, atol=1e-6))
        >>> sol.stats.rejected
        0
    """

    rtol: Any = None
    atol: Any = None
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    min_step: float = 0.0
    max_step: float = math.inf
    first_step: float | None = None
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 10.0
    norm: Norm | None = None
    force_min_step: bool = False

    @staticmethod
    def pi(rtol: Any = None, atol: Any = None, **settings: Any) -> PID:
        """PI control with P = 0.4, I = 0.3 (Söderlind 2003; good for explicit methods on mildly stiff problems).

        Example:
            >>> PID.pi(1e-6).pcoeff
            0.4
        """
        return PID(rtol, atol, pcoeff=0.4, icoeff=0.3, **settings)

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{name}={value!r}: a tolerance must not be negative; try {name}=1e-6")
        if self.rtol is not None and self.atol is not None and _is_zero(self.rtol) and _is_zero(self.atol):
            raise ValueError("rtol=0 and atol=0: no step can be that good; give one of them a positive value")
        if not 0 < self.safety < 1:
            raise ValueError(f"safety={self.safety}, expected between 0 and 1, e.g. 0.9")
        if not 0 < self.min_factor < 1 < self.max_factor:
            raise ValueError(f"min_factor={self.min_factor}, max_factor={self.max_factor}, expected 0 < min < 1 < max")
        if not 0 <= self.min_step <= self.max_step or self.max_step <= 0:
            raise ValueError(
                f"min_step={self.min_step}, max_step={self.max_step}, expected 0 <= min_step <= max_step, max_step > 0"
            )
        if self.first_step is not None and not 0 < self.first_step < math.inf:
            raise ValueError(f"first_step={self.first_step}, expected a positive number or None")

    def exponents(self, k: int) -> tuple[float, float, float]:
        """Exponents of r_n, r_{n−1}, r_{n−2} in the factor; signs turned, because r = 1/δ."""
        p, i, d = self.pcoeff, self.icoeff, self.dcoeff
        return -(p + i + d) / k, (p + 2 * d) / k, -d / k

    def forces(self, r: float, step: float) -> bool:
        """Whether a step is taken although its error ratio `r` is above 1; `per_sample` has the same on tensors."""
        return self.force_min_step and step <= self.min_step * (1 + 1e-10) and math.isfinite(r)

    def factor(self, exponents: tuple[float, float, float], r: float, r1: float, r2: float, accepted: bool) -> float:
        """Change of h after a step with error ratio `r`, the two accepted ones before it `r1`, `r2`.

        `per_sample_factor` in the per-sample loop is the same formula on tensors.
        """
        low, high = (1.0, self.max_factor) if accepted else (self.min_factor, self.safety)
        if not math.isfinite(r):
            return self.min_factor
        if r == 0:
            return self.max_factor
        raw = self.safety * r ** exponents[0] * r1 ** exponents[1] * r2 ** exponents[2]
        return min(max(raw, low), high)


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0
