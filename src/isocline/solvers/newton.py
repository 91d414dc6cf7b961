"""Newton's iteration for the stages of an implicit method, for all samples at once.

For a block of m stages with the increments Z_i = h Σ_j a_ij k_j, and `base` what earlier stages contribute:

    Z_i = h Σ_j a_ij f(t + c_j h, base_j + Z_j),    (I − h A ⊗ J) ΔZ = h A f − Z    (Hairer & Wanner II, IV.8).

J is evaluated at the start of a step and kept while the iteration converges fast; its factors serve all blocks with the
same A. After a correction of size δ about η δ is missing, η = Θ/(1 − Θ) with the rate of convergence Θ: the iteration ends
where that is small. η is carried on from block to block, as η^0.8 (IV.8.10), so that most first corrections are the last;
it is not believed where an equation happened to be linear, nor where the iteration is to go down to rounding. There it
ends where corrections no longer shrink: how near that is depends on the conditioning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.jacobian import Factors, Given, Jacobians, under_transform
from isocline.solvers.krylov import Krylov, Products

KAPPA = 0.03  # how far below the tolerance of a step Newton goes (Hairer & Wanner II, IV.8: 10⁻¹ to 10⁻²)
ITERATIONS, TO_ROUNDING = 10, 40  # at most; the latter where there is no tolerance, nor a step to be rejected
LEAST = 1e-3  # the smallest η that is carried on: the Jacobian ages
# The rate of convergence at which a Jacobian is kept: a small one costs no more than an iteration.
FAST, FAST_LARGE, LARGE = 0.03, 0.3, 8
Matrix = tuple[tuple[float, ...], ...]


class Newton:
    """The iteration, and what it keeps from one step to the next.

    Args:
        field: whose stages are sought.
        y: a state, for its shape.
        given: the user's Jacobian.
        linear: "dense" or "gmres".

    Attributes:
        tolerance: `Tolerance` of the steps; without one the iteration goes down to rounding.
        jacobian: the present one, (R, D, D); None before the first, and with "gmres".
        count: of Jacobians evaluated.
    """

    def __init__(self, field: VectorField, y: Tensor, given: Given | None = None, linear: str = "dense") -> None:
        self.field, self.linear = field, linear
        self.jacobians = Jacobians(field, y, given)
        if linear == "gmres" and y.dim() == 1:  # no Jacobian that would show whether samples are alone
            self.jacobians.grid = (1, y.numel())
        self.shape, self.field_shape = y.shape, field.shaped(y).shape
        self.tolerance: Any = None
        self.jacobian: Tensor | None = None
        self.products: Products | None = None
        self.seen: Tensor | None = None  # the state the Jacobian is of
        self.count = 0
        self.rate: Any = None

    @property
    def grid(self) -> tuple[int, int]:
        """(R, D), how the state is looked at."""
        return self.jacobians.grid

    # ---- a step ---------------------------------------------------------------------------------------------------
    def begin(self, time: Any, y: Tensor, h: Any) -> None:
        """A step from (time, y) of length h, a number or (R, 1)."""
        if self.seen is None or (self.rate.slow and self.seen is not y):
            self._linearise(time, y)
        self.time, self.y, self.h = time, y, h
        self.factors: dict[Matrix, Any] = {}
        self.failed: Any = False
        self.unit = None if self.tolerance is None else self.tolerance.scale(y.abs()).mul_(KAPPA).view(self.grid)

    def _linearise(self, time: Any, y: Tensor) -> None:
        before = self.grid
        if self.linear == "dense":
            self.jacobian = self.jacobians.at(time, y).detach()
        else:
            self.products = Products(self.field, time, y)
        self.seen, self.factors = y, {}
        self.count += 1
        one = self.grid[0] == 1 and not under_transform()
        self.rate = RateOfOne() if one else Rates()
        if before != self.grid and hasattr(self, "unit"):  # found out only now, in the middle of a step
            self.unit = None if self.unit is None else self.unit.view(self.grid)
            self.failed = self.failed is not False and self.failed.any().view(1)

    def system(self, a: Matrix) -> Any:
        """I − h A ⊗ J, ready to be solved with."""
        if a not in self.factors:
            matrix, h = self.y.new_tensor(a), self.h
            if self.jacobian is not None:
                self.factors[a] = Factors(matrix, self.jacobian, h)
            else:
                assert self.products is not None
                self.factors[a] = Krylov(matrix, [self.products], h, self.grid, self.unit)
        return self.factors[a]

    def block(self, times: Sequence[Any], a: Matrix, base: Tensor, guess: Tensor) -> Tensor:
        """The increments Z (m, R, D) of a block, from a guess; `failed` says which samples had none."""
        z, lost = self._iterate(times, a, base, guess)
        if lost is not False and self.seen is not self.y:
            self._linearise(self.time, self.y)
            base, guess = (x.view(len(x), *self.grid) for x in (base, guess))
            z, lost = self._iterate(times, a, base, guess)
        if lost is not False and self.unit is None and self.linear == "dense":
            # A step accepted at its tolerance may be too long for one Jacobian to lead down to rounding.
            z, lost = self._iterate(times, a, base, guess, at_iterates=True)
        if lost is not False:
            self.failed = lost if self.failed is False else self.failed | lost
        return z

    def solved(self, times: Sequence[Any], a: Matrix, base: Tensor, guess: Tensor) -> Tensor:
        """The same for (m, …) in the shape of the state; NaN of samples that have none."""
        z = self.block(times, a, *(x.reshape(len(x), *self.grid) for x in (base, guess)))
        if self.failed is not False:
            lost = self.failed if isinstance(self.failed, Tensor) else z.new_ones(1, dtype=torch.bool)
            z = z.masked_fill(lost.unsqueeze(1), torch.nan)
        return z.reshape(base.shape)

    def _iterate(
        self, times: Sequence[Any], a: Matrix, base: Tensor, z: Tensor, at_iterates: bool = False
    ) -> tuple[Tensor, Any]:
        system, weights = self.system(a), self._weights(a)
        unit = self.unit
        limit = TO_ROUNDING if unit is None else ITERATIONS
        self.rate.begin(self.failed, limit, None if unit is not None else torch.finfo(z.dtype).eps ** -0.5)
        for _ in range(limit):
            if at_iterates:
                system = self.exact(times, a, base + z)
            change = system.solved(z - weights(self._slopes(times, base + z)))
            z = z - change
            if unit is None:
                unit = self._rounding(base, z)
            ended = self.rate.look(change / unit)
            if ended is not None:
                return z, ended
        return z, self.rate.lost()

    def exact(self, times: Sequence[Any], a: Matrix, stages: Tensor) -> Factors:
        """The same with the Jacobian at every stage (m, R, D)."""
        shape = self.shape
        found = [self.jacobians.at(t, x.reshape(shape)) for t, x in zip(times, stages.unbind(0), strict=True)]
        return Factors(self.y.new_tensor(a), torch.stack(found).detach(), self.h)

    def _slopes(self, times: Sequence[Any], stages: Tensor) -> Tensor:
        """f at every stage, (m, R, D)."""
        shape, slope = self.field_shape, self.field.slope
        if len(times) == 1:
            return slope(times[0], stages.view(shape)).reshape(stages.shape)
        found = [slope(t, x.reshape(shape)) for t, x in zip(times, stages.unbind(0), strict=True)]
        return torch.stack(found).view(stages.shape)

    def _weights(self, a: Matrix) -> Any:
        """k ↦ h A k."""
        if len(a) == 1:
            ha = self.h * a[0][0]
            return lambda k: k * ha
        matrix, h = self.y.new_tensor(a), self.h
        return lambda k: torch.einsum("ij,jrd->ird", matrix, k) * h

    def _rounding(self, base: Tensor, z: Tensor) -> Tensor:
        size = torch.maximum(base.abs(), z.abs()).amax((0, 2)).unsqueeze(1)
        return size.clamp(min=1e-30) * (20 * torch.finfo(z.dtype).eps)

    def filtered(self, error: Tensor, gamma: float) -> Tensor:
        """(I − hγJ)⁻¹ error."""
        return self.system(((gamma,),)).solved(error.view(1, *self.grid)).reshape(error.shape)


class RateOfOne:
    """How fast the iteration converges, where there is one sample: in Python numbers."""

    def __init__(self) -> None:
        self.eta, self.worst = 1.0, 0.0

    @property
    def slow(self) -> bool:
        """Whether a new Jacobian is wanted."""
        return self.worst > self.fast

    fast = FAST

    def begin(self, failed: Any, limit: int, rounding: float | None) -> None:
        """`rounding`: corrections below that are at rounding where they stop shrinking; None: a tolerance is enough."""
        self.eta = max(self.eta, LEAST) ** 0.8 if rounding is None else 1.0
        self.before, self.count, self.limit, self.rounding = 0.0, 0, limit, rounding or 0.0

    def look(self, change: Tensor) -> bool | None:
        """After a correction, in units of what may be missing: False where the stages are found, True where lost."""
        flat = change.reshape(-1)
        self.fast = FAST if change.shape[2] <= LARGE else FAST_LARGE
        size = (torch.dot(flat, flat).item() / len(flat)) ** 0.5
        self.count += 1
        theta = 0.0
        if self.before:
            theta = size / self.before
            self.worst = max(self.worst, theta)
            self.eta = theta / max(1 - theta, 1e-3)
        self.before = max(size, 1e-30)
        if self.eta * size <= 1 or (theta > 0.5 and size <= self.rounding):
            return False
        if not size < float("inf") or theta >= 2:
            return True
        if self.count >= 3 and not self.rounding and self.eta * size * theta ** (self.limit - self.count) > 1:
            return True
        return None

    def lost(self) -> bool:
        return self.before > self.rounding


class Rates:
    """The same of every sample, in tensors over them; one synchronisation a correction."""

    def __init__(self) -> None:
        self.eta: Any = 1.0
        self.worst, self.fast = 0.0, FAST

    @property
    def slow(self) -> bool:
        return self.worst > self.fast

    def begin(self, failed: Any, limit: int, rounding: float | None) -> None:
        """As of `RateOfOne`."""
        if rounding is not None:
            self.eta = 1.0
        elif isinstance(self.eta, Tensor):
            self.eta = self.eta.clamp(min=LEAST) ** 0.8
        self.rounding = rounding or 0.0
        self.failed = None if failed is False else failed
        self.before: Tensor | None = None
        self.count, self.limit = 0, limit

    def look(self, change: Tensor) -> Any:
        """False where all stages are found; which samples are lost, where the others are; else None."""
        self.fast = FAST if change.shape[2] <= LARGE else FAST_LARGE
        size = change.square().mean((0, 2)).sqrt_()
        self.count += 1
        if self.before is None:
            self.missing = size * self.eta
            theta = None
        else:
            theta = size / self.before
            self.eta = theta / (1 - theta).clamp(min=1e-3)
            self.missing = torch.fmin(self.missing, size * self.eta)
            if self.rounding:
                self.missing = self.missing.masked_fill((theta > 0.5) & (size <= self.rounding), 0.0)
        if self.failed is not None:
            self.missing = self.missing.masked_fill(self.failed, 0.0)
        self.before = size.clamp(min=1e-30)
        if theta is None:
            return False if _at_most_one(self.missing.amax()) else None
        if self.count == 2:
            found = _numbers(torch.stack((self.missing.amax(), theta.amax())))
            if found is None:
                return None
            self.worst = max(self.worst, found[1]) if found[1] < float("inf") else self.worst
            return False if found[0] <= 1 else None
        done = self.missing <= 1
        hopeless = theta >= 2
        if not self.rounding:
            hopeless = hopeless | ~(self.missing * theta ** (self.limit - self.count) <= 1)
        found = _numbers(torch.stack((done.all(), (done | hopeless).all())))
        if found is None:
            return None
        return False if found[0] else ~done if found[1] else None

    def lost(self) -> Tensor:
        return ~(self.missing <= max(1.0, self.rounding))


def _numbers(x: Tensor) -> list[Any] | None:
    """The numbers of a vector; None under `vmap`, which does not show them."""
    try:
        return x.tolist()
    except RuntimeError:
        if under_transform():
            return None
        raise


def _at_most_one(x: Tensor) -> bool:
    found = _numbers(x.view(1))
    return found is not None and found[0] <= 1
