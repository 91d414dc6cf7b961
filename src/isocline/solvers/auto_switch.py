"""Two methods in one: explicit steps where accuracy limits them, implicit ones where stability would.

A step h of an explicit method is stable where h·ρ stays below its stability boundary β, ρ the magnitude of the largest
eigenvalue of ∂f/∂y. Where steps of a size that accuracy allows go beyond, the problem is stiff there. ρ costs nothing:

- of an explicit step, ρ ≈ ‖k_s − k_p‖ / ‖Y_s − Y_p‖, of the slope at its end and a stage at the end too: f at the same time
  and at two states whose difference lies, where the step is at its limit, in the direction that grows
  (Hairer & Wanner II, IV.2, equation 2.8; after L. F. Shampine, Stiffness and nonstiff differential equation solvers II, 1977);
- of an implicit one, a few products with its own Jacobian (the power method).

For the engines the rows of a step are the slope at its start and the coefficients of its interpolant, of either method
alike: in powers of θ the two are polynomials with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property, lru_cache
from math import comb
from typing import Any, NamedTuple

import torch

from isocline._types import Tensor
from isocline.field import VectorField
from isocline.solvers.base import Solver, snake_case
from isocline.solvers.implicit import ImplicitRungeKutta
from isocline.solvers.memory import MemoryWorkspace, Remembering, Rows, StepRows
from isocline.solvers.rodas5p import Rodas5P
from isocline.solvers.rosenbrock import Rosenbrock
from isocline.solvers.runge_kutta import ExplicitRungeKutta, RungeKutta
from isocline.solvers.tableau import Tableau
from isocline.solvers.tsit5 import Tsit5

# Of the stability boundary: above this an explicit step counts as stiff, and below it an implicit one as not. Where stability
# is what limits them, steps hover between 0.85 and 1.15 of it. So many in a row change the method: as in
# DifferentialEquations.jl (C. Rackauckas & Q. Nie, J. Open Research Software 5, 2017).
LIMIT = 0.8
STIFF_STEPS, NONSTIFF_STEPS = 10, 3
LOOK = 5  # steps from one estimate to the next while none was stiff; of a batch, from one change of methods to the next


class Side(NamedTuple):
    """One of the two methods: which of a step's times are its stages' and the extra ones', and its interpolant."""

    method: RungeKutta
    nodes: tuple[int, ...]
    extra: tuple[int, ...]
    rows: Rows  # from its stages to the rows of a step

    @property
    def tableau(self) -> Tableau:
        return self.method.tableau


@dataclass(frozen=True)
class AutoSwitch(Remembering):
    """An explicit method where the problem is not stiff, an implicit one where it is; each sample by itself.

    It begins with the explicit one, and costs what that costs while it stays. A method is changed after ten explicit
    steps in a row with h·ρ above four fifths of the explicit method's stability boundary, or three implicit ones below;
    while nothing is stiff, every fifth step is looked at, and in a batch methods change every fifth step. The length of a
    step goes on as it is: it is stable for both, and grows from there as the error allows. Where `batching="per_sample"`,
    each sample has its own method at any time; of a field that couples the samples all take the same, implicit where one
    needs it.

    After an event it begins anew. An implicit method that forms no Jacobian (`linear="gmres"`), once taken, stays. At tight
    tolerances explicit steps are short of their limit even where implicit ones could be longer: nothing is changed then.

    Gradients hold the methods fixed, as they do the lengths of the steps. The way back of `Backsolve` needs a solver of
    its own.

    Args:
        nonstiff: an explicit solver or its name, of which two stages are at the end of a step.
        stiff: an implicit or a Rosenbrock solver, or its name.

    Their orders should be close: the steps are steered by an exponent between the two. Of order is stated the lower one.

    Source: Hairer & Wanner II, IV.2; L. Petzold, Automatic selection of methods for solving stiff and nonstiff systems of
    ordinary differential equations, SIAM J. Sci. Stat. Comput. 4 (1983), for the idea; ten and three steps as in
    DifferentialEquations.jl.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
        >>> field = isocline.problems.van_der_pol(mu=1000.0).field
        >>> isocline.solve(field, y0, [0.0, 500.0], solver="auto_switch").stats.accepted < 200
        True
    """

    nonstiff: ExplicitRungeKutta | str = dataclass_field(default_factory=Tsit5)
    stiff: RungeKutta | str = dataclass_field(default_factory=Rodas5P)

    def __post_init__(self) -> None:
        for name, kinds, wanted in (
            ("nonstiff", ExplicitRungeKutta, "an explicit Runge–Kutta method such as 'tsit5'"),
            ("stiff", (ImplicitRungeKutta, Rosenbrock), "an implicit or Rosenbrock method such as 'rodas5_p'"),
        ):
            given = getattr(self, name)
            if isinstance(given, str):
                if given not in Solver.registry:
                    raise ValueError(f"AutoSwitch: {name}={given!r}, expected one of {sorted(Solver.registry)}")
                given = Solver.named(given)
                object.__setattr__(self, name, given)
            if not isinstance(given, kinds):
                shown = snake_case(type(given).__name__) if isinstance(given, Solver) else given
                raise ValueError(f"AutoSwitch: {name}={shown!r}, expected {wanted}")
        if not last_stage(self.sides[0].tableau):
            raise ValueError(
                f"AutoSwitch: nonstiff={snake_case(type(self.nonstiff).__name__)!r} has no stage at the end of a step to "
                f"compare the slope there with, which is how stiffness shows; take one such as 'tsit5', 'dopri5' or 'heun'"
            )

    @cached_property
    def tableau(self) -> StepRows:  # pyrefly: ignore[bad-override]
        tableaus = [side.tableau for side in self.sides]
        size = len(self.sides[0].rows)
        adaptive = all(tableau.b_error is not None for tableau in tableaus)
        center = tableaus[0].dense_center
        return StepRows(
            c=self.nodes,
            order=min(tableau.order for tableau in tableaus),
            embedded_order=max(min(tableau.order, tableau.embedded_order) for tableau in tableaus),
            b=(0.0, *((1.0 - center) ** d - (-center) ** d for d in range(1, size))),
            b_error=(0.0,) * size if adaptive else None,
            dense=((0.0,), *((0.0,) * d + (1.0,) for d in range(size - 1))),
            dense_order=min(tableau.dense_order for tableau in tableaus),
            dense_center=center,
            explicit=False,
        )

    @property
    def _methods(self) -> tuple[RungeKutta, RungeKutta]:
        assert isinstance(self.nonstiff, RungeKutta) and isinstance(self.stiff, RungeKutta)
        return self.nonstiff, self.stiff

    @cached_property
    def nodes(self) -> tuple[float, ...]:
        """Where either method asks, once each; the last is the end of the step."""
        tableaus = [method.tableau for method in self._methods]
        return *dict.fromkeys(c for tableau in tableaus for c in (*tableau.c, *tableau.extra_c) if c != 1.0), 1.0

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The explicit one and the implicit one."""
        methods = self._methods
        center = methods[0].tableau.dense_center
        dense = [recentered(m.tableau.dense, m.tableau.dense_center, center) for m in methods]
        degree = max(len(polynomial) for polynomials in dense for polynomial in polynomials)
        sides = []
        for method, polynomials in zip(methods, dense, strict=True):
            nodes, extra = (tuple(map(self.nodes.index, x)) for x in (method.tableau.c, method.tableau.extra_c))
            padded = [(*p, *(0.0,) * (degree - len(p))) for p in polynomials]
            rows = ((1.0, *(0.0,) * (len(padded) - 1)), *zip(*padded, strict=True))
            sides.append(Side(method, nodes, extra, rows))
        return sides[0], sides[1]

    def begin(self, y: Tensor) -> Tensor:
        return y[None]

    def check(self, field: VectorField, t: Tensor, y: Tensor) -> None:
        for side in self.sides:
            side.method.check(field, t, y)

    def workspace(self, y: Tensor, field: VectorField) -> SwitchWorkspace:
        return SwitchWorkspace(self, y, field)

    def taken(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        k1: Tensor,
        paces: Tensor | None = None,
        note: Any = None,
    ) -> tuple[Tensor, list[Tensor]]:
        return self.retaken(field, times, scale, state, k1, paces, note, dense=True)

    def retaken(
        self,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        state: Tensor,
        k1: Tensor,
        paces: Tensor | None,
        note: Any,
        dense: bool,
    ) -> tuple[Tensor, list[Tensor]]:
        (y,), (stiff,) = state, note
        if isinstance(stiff, bool) or (count := int(stiff.count_nonzero())) in (0, len(stiff)):
            side = self.sides[stiff if isinstance(stiff, bool) else count > 0]
            y1, rows = self._taken(side, field, times, scale, y, k1, paces, dense)
            return y1[None], list(rows.unbind(0))
        assert paces is not None
        y1, rows = torch.zeros_like(y), y.new_zeros(len(self.sides[0].rows) if dense else 1, *y.shape)
        for side, which in zip(self.sides, picks(stiff), strict=True):
            part_y, part_k1, part_paces = (x.index_select(0, which) for x in (y, k1, paces))
            whose = field.of_rows(which), at_rows(times, which), scale
            part = self._taken(side, *whose, part_y, part_k1, part_paces, dense)
            y1, rows = y1.index_copy(0, which, part[0]), rows.index_copy(1, which, part[1])
        return y1[None], list(rows.unbind(0))

    @staticmethod
    def _taken(
        side: Side,
        field: VectorField,
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        k1: Tensor,
        paces: Tensor | None,
        dense: bool,
    ) -> tuple[Tensor, Tensor]:
        """The step of one method: y₁, and the rows as a tensor; the first only, where the interpolant is not needed."""
        nodes, extra = ([times[i] for i in x] for x in (side.nodes, side.extra))
        y1, ks = side.method.recorded(field, nodes, scale, y, k1, paces, last_stage=dense)
        if not dense:
            return y1, k1[None]
        if extra:
            ks = side.method.recorded_extra(field, extra, scale, y, ks, paces)
        return y1, torch.tensordot(y.new_tensor(side.rows), torch.stack(ks), 1)


class Part:
    """One method at work: on all of the state, or on some of the rows of a batch.

    Attributes:
        rows: which, or None for all.
        calls: of f, in steps which other rows took no part in.
        last: f at the end of the step just taken.
    """

    rows: Any
    last: Any
    tried: tuple[Sequence[Any], float, Tensor, Tensor | None]

    def __init__(self, side: Side, y: Tensor, field: VectorField, rows: Tensor | None = None) -> None:
        self.rows, self.calls = rows, 0
        self.nodes, self.extra, self.tableau = side.nodes, side.extra, side.tableau
        self.field = field if rows is None else field.of_rows(rows)
        self.workspace = side.method.workspace(y if rows is None else y.index_select(0, rows), self.field)
        self.to_rows = y.new_tensor(side.rows)
        self.by_row = y.dim() == 2
        self.fsal, self.explicit = self.tableau.fsal, self.tableau.explicit
        if self.explicit:
            self._pair(y)

    def _pair(self, y: Tensor) -> None:
        """The weights, of the stages, of the differences that tell ρ: k_s − k_p and Y_s − Y_p, s at the end of the step."""
        tableau = self.tableau
        ends = tableau.stages - 1 if tableau.fsal else tableau.stages
        before = last_stage(tableau)
        inner = (*tableau.a[before - 1], *(0.0,) * (tableau.stages - before))
        slopes = [float(tableau.fsal and i == ends) - float(i == before) for i in range(tableau.stages)]
        self.pair = y.new_tensor([slopes, [b - a for b, a in zip(tableau.b, inner, strict=True)]])

    def step(self, times: Sequence[Any], scale: float, y: Tensor, paces: Tensor | None) -> Tensor:
        """y₁; k₁ is in the workspace already."""
        self.tried = times, scale, y, paces
        workspace = self.workspace
        y1 = workspace.step(self.field.fill, [times[i] for i in self.nodes], scale, y, paces)
        if self.fsal:
            self.last = workspace.last if self.by_row else workspace.rows[self.tableau.stages - 1]
        else:
            last = self.field(times[-1], y1).view_as(workspace.like)
            self.last = last.clone() if self.extra else last  # f may return the same memory when it is asked again
        return y1

    def result(self) -> Tensor:
        """The rows of the step just taken, (M, …)."""
        if self.extra:
            times, scale, y, paces = self.tried
            self.workspace.step_extra(self.field.fill, [times[i] for i in self.extra], scale, y, paces)
        stages = self.workspace.K
        return (self.to_rows @ stages.view(len(stages), -1)).view(-1, *stages.shape[1:])

    def size(self) -> Tensor:
        """h·ρ of the step just taken, 0-d or of each row."""
        _, scale, y, paces = self.tried
        if not self.explicit:
            jacobian: Tensor | None = getattr(self.workspace, "jacobian", None)
            if jacobian is None:
                return y.new_full((len(y),) if self.by_row else (), torch.inf)
            rho = spectral_radius(jacobian)
            return rho.amax() * abs(scale) if paces is None else rho * paces.reshape(len(y), -1)[:, 0].abs()
        stages = self.workspace.K[: self.tableau.stages]
        pair = (self.pair @ stages.view(len(stages), -1)).view(2, *y.shape)
        if not self.fsal:
            slope = self.last.view_as(y)
            pair[0] += slope if paces is None else slope * paces.reshape(y.shape)[:, :1]
        norms = torch.linalg.vector_norm(pair, dim=-1)
        return norms[0] / norms[1]


class SwitchWorkspace(MemoryWorkspace):
    """Both methods, each with its own workspace for the rows it steps.

    Attributes:
        stiff: whether the implicit method steps, a bool; or (R,) of each row.
        votes: how many steps in a row spoke for the other method.
        wait, busy: steps to the next look, and whether each is looked at: where something is stiff or has voted.
        parts: the methods at work; one, or the explicit and the implicit one.
        undecided: whether it must be known, before the next step, if the field treats its rows alone.
    """

    def __init__(self, solver: AutoSwitch, y: Tensor, field: VectorField) -> None:
        self.solver: Any = solver
        self.field, self.y = field, y
        self.by_row = y.dim() == 2
        self.like = field.shaped(y)
        self.tolerance: Any = None
        self.state = None
        self.stiff: Any = torch.zeros(len(y), dtype=torch.bool, device=y.device) if self.by_row else False
        self.fresh: Any = self.stiff
        self.votes: Any = torch.zeros(len(y), dtype=torch.int64, device=y.device) if self.by_row else 0
        self.bound = LIMIT * stability_boundary(solver.sides[0].tableau)
        self.wait, self.busy = LOOK, False
        self.alone: bool | None = None
        self.undecided = False
        self.retired = 0
        self.missed: Any = self.votes
        self._result: Tensor | None = None
        self.parts: list[Part] = []
        self.rows = [self.like] * len(solver.sides[0].rows)
        self._divide(0)

    def _divide(self, stiff: int) -> None:
        """The rows to their methods; so many are stiff."""
        if self.by_row:
            self.calls_missed()
        self.retired = self.jacobians
        sides, y = self.solver.sides, self.y
        mixed = self.by_row and 0 < stiff < len(y)
        self.undecided = mixed and self.alone is None
        if mixed:
            pairs = zip(sides, picks(self.stiff), strict=True)
            self.parts = [Part(side, y, self.field, rows) for side, rows in pairs]
            self.rows[0] = torch.empty_like(self.like)
        else:
            self.parts = [Part(sides[stiff > 0], y, self.field)]
            self.rows[0] = self.parts[0].workspace.rows[0]

    # ---- the step -------------------------------------------------------------------------------------------------
    def step(
        self,
        f: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor],
        times: Sequence[Any],
        scale: float,
        y: Tensor,
        paces: Tensor | None = None,
    ) -> Tensor:
        self._result = None
        if len(self.parts) == 1:
            (part,) = self.parts
            part.workspace.tolerance = self.tolerance
            y1 = part.step(times, scale, y, paces)
            self.last = self.rows[-1] = part.last
            return y1
        assert paces is not None
        y1, last = torch.empty_like(y), torch.empty_like(y)
        for part in self.parts:
            calls, rows = self.field.evaluations, part.rows
            part.workspace.tolerance = self.tolerance
            part.workspace.rows[0].copy_(self.rows[0].index_select(0, rows))
            some = y.index_select(0, rows), paces.index_select(0, rows)
            y1.index_copy_(0, rows, part.step(at_rows(times, rows), scale, *some))
            last.index_copy_(0, rows, part.last.reshape(len(rows), -1))
            part.calls += self.field.evaluations - calls
        self.last = last
        return y1

    def error(self) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0].workspace.error()
        out = torch.empty_like(self.y)
        for part in self.parts:
            out.index_copy_(0, part.rows, part.workspace.error().view(len(part.rows), -1))
        return out.view(-1)

    @property
    def K(self) -> Tensor:  # noqa: N802  # pyrefly: ignore[bad-override]
        """The rows of the step just taken, made when they are first asked for."""
        if self._result is None:
            if len(self.parts) == 1:
                self._result = self.parts[0].result()
            else:
                self._result = self.y.new_empty(len(self.rows), *self.y.shape)
                for part in self.parts:
                    self._result.index_copy_(1, part.rows, part.result())
        return self._result

    @property
    def jacobians(self) -> int:
        return self.retired + sum(part.workspace.jacobians for part in self.parts)

    # ---- the memory: which method, and for how long it has not been the right one ----------------------------------
    def at(self, y: Tensor) -> Tensor:
        return y[None]

    def record(self, y: Tensor) -> dict[str, Any]:
        return {"y": y[None], "fresh": self.fresh, "note": (self.stiff,)}

    def forget(self, rows: Tensor | None = None) -> None:
        self.votes = torch.where(rows, 0, self.votes) if rows is not None else self.votes * 0

    def accept(self, y: Tensor, accepted: Tensor | None = None) -> None:
        """Looks, from time to time, whether the step just taken speaks for the other method, and changes it when enough do."""
        self.wait -= 1
        if self.wait > 0 and not self.busy:
            return
        if self.by_row:
            self._count(accepted)
        else:
            size = float(self.parts[0].size())
            against = size < self.bound if self.stiff else size > self.bound
            self.votes = self.votes + 1 if against else 0
            if self.votes >= (NONSTIFF_STEPS if self.stiff else STIFF_STEPS):
                self.stiff, self.votes = not self.stiff, 0
                self._divide(int(self.stiff))
            self.busy = bool(self.stiff or self.votes)
        self.wait = self.wait if self.wait > 0 else LOOK

    def _count(self, accepted: Tensor | None) -> None:
        """The same of every row; those that change their method do so together, every so many steps."""
        size = self._sizes()
        if not self.busy and not bool((size > self.bound).any()):
            return
        against = torch.where(self.stiff, size < self.bound, size > self.bound)
        votes = torch.where(against, self.votes + 1, 0)
        self.votes = votes if accepted is None else torch.where(accepted, votes, self.votes)
        if self.wait > 0:
            return
        turning = self.votes >= torch.where(self.stiff, NONSTIFF_STEPS, STIFF_STEPS)
        if self.alone is False:  # all to the implicit method where one must, back where all may; who stands still may
            turning = torch.where(self.stiff, (turning | (size == 0)).all(), turning.any())
        stiff = torch.where(turning, ~self.stiff, self.stiff)
        turned, count, voted = torch.stack([x.count_nonzero() for x in (turning, stiff, self.votes)]).tolist()
        if turned:
            self.stiff, self.votes = stiff, torch.where(turning, 0, self.votes)
            self._divide(count)
        self.busy = count + voted > 0

    def _sizes(self) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0].size()
        out = self.y.new_empty(len(self.y))
        for part in self.parts:
            out.index_copy_(0, part.rows, part.size())
        return out

    def decide(self, alone: bool) -> None:
        """Told whether the field treats its rows alone."""
        self.alone, self.undecided = alone, False
        if not alone:
            self.stiff = torch.ones_like(self.stiff)
        self._divide(int(self.stiff.count_nonzero()))

    def go_on(self, before: MemoryWorkspace, rows: Tensor) -> None:
        assert isinstance(before, SwitchWorkspace)
        self.stiff, self.votes = before.stiff.index_select(0, rows), before.votes.index_select(0, rows)
        self.missed = before.calls_missed().index_select(0, rows)
        self.alone, self.wait, self.busy = before.alone, before.wait, before.busy
        if self.busy:
            self._divide(int(self.stiff.count_nonzero()))

    def calls_missed(self) -> Tensor:
        """How many calls of f were not for a row."""
        total = sum(part.calls for part in self.parts)
        for part in self.parts:
            if part.rows is not None and total > part.calls:
                others = torch.full_like(part.rows, total - part.calls)
                self.missed = self.missed.index_add(0, part.rows, others)
        for part in self.parts:
            part.calls = 0
        return self.missed


def last_stage(tableau: Tableau) -> int:
    """Which stage, the last, is at the end of a step but not at its result; 0 if none is."""
    ends = tableau.stages - 1 if tableau.fsal else tableau.stages
    return max((i for i in range(1, ends) if tableau.c[i] == 1.0), default=0)


def picks(stiff: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are not stiff, and which are."""
    return (~stiff).nonzero().squeeze(1), stiff.nonzero().squeeze(1)


def at_rows(times: Sequence[Tensor], rows: Tensor) -> Sequence[Tensor]:
    """The stages' times of those rows."""
    return torch.stack(tuple(times)).index_select(1, rows).unbind(0)


def spectral_radius(jacobian: Tensor) -> Tensor:
    """ρ of matrices (R, D, D), estimated by six products with a vector (the power method, two steps at a time).

    Two at a time, because of a pair ±λ or of conjugates a single step says little.

    Example:
        >>> spectral_radius(torch.tensor([[[0.0, 1.0], [-4.0, 0.0]], [[-3.0, 1.0], [0.0, -50.0]]])).round()
        tensor([ 2., 50.])
    """
    size = jacobian.shape[-1]
    v = (
        torch.arange(1, size + 1, device=jacobian.device, dtype=jacobian.dtype).square().cos()
    )  # in no special direction
    v, norm = (v / v.norm()).view(size, 1).expand(len(jacobian), size, 1), v.norm()
    for _ in range(3):
        v = jacobian @ (jacobian @ v)
        norm = torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True)
        v = v / norm.clamp(min=torch.finfo(v.dtype).tiny)
    return norm.view(-1).sqrt()


@lru_cache(maxsize=256)
def stability_boundary(tableau: Tableau) -> float:
    """The largest β with |R(−x)| ≤ 1 for all 0 ≤ x ≤ β; R(z) = 1 + Σ zᵏ bᵀAᵏ⁻¹𝟙 of an explicit method with s stages.

    No such method has more than 2s² (Hairer & Wanner II, IV.2).

    Example:
        >>> from isocline.solvers import Heun, Tsit5
        >>> round(stability_boundary(Heun.tableau), 2), round(stability_boundary(Tsit5.tableau), 2)
        (2.0, 3.51)
    """
    stages = tableau.stages
    a = torch.zeros(stages, stages, dtype=torch.float64)
    for i, row in enumerate(tableau.a, start=1):
        a[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    b, v = torch.tensor(tableau.b, dtype=torch.float64), torch.ones(stages, dtype=torch.float64)
    x = torch.arange(0.0, 2.0 * stages**2 + 1, 1e-3, dtype=torch.float64)
    value, power = torch.ones_like(x), torch.ones_like(x)
    for _ in range(stages):
        power = power * -x
        value = value + power * (b @ v)
        v = a @ v
    return float(x[(value.abs() > 1 + 1e-6).nonzero()[0, 0] - 1])


def recentered(dense: Rows, center: float, to: float) -> Rows:
    """The polynomials Σ_d p_d [(θ − center)^d − (−center)^d] as such about another center.

    Example:
        >>> recentered(((1.0, 2.0),), 0.0, 0.5)
        ((3.0, 2.0),)
    """
    if center == to:
        return dense
    shift = to - center
    return tuple(
        tuple(
            sum(p[d] * comb(d + 1, k) * shift ** (d + 1 - k) for d in range(k - 1, len(p)))
            for k in range(1, len(p) + 1)
        )
        for p in dense
    )
