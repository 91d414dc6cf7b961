"""Steady states: y* with f(t, y*, θ) = 0, differentiable by the implicit function theorem.

With J = ∂f/∂y at y*, nonsingular,

    dy*/dθ = −J⁻¹ ∂f/∂θ,      so a cotangent g of y* gives θ the cotangent −λᵀ ∂f/∂θ, Jᵀ λ = g:

one linear system, however y* was found. It does not depend on where the search began.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.autocast import outside_autocast, uncast
from isocline.control import PID
from isocline.control.initial_step import Tolerance
from isocline.engines.eager import Problem
from isocline.events import Event
from isocline.field import Layout, VectorField
from isocline.gradients import GradientError
from isocline.gradients.base import Inputs
from isocline.solution import Solution, SolveError, Stats, Status, failed
from isocline.solve import resolve_solver, solve, unknown
from isocline.solvers import Solver
from isocline.transforms import outside_graphs, transformed

HORIZON = 1e12  # in the field's unit of time; steps grow as the slope dies away
NEWTON = 50  # iterations
SHORTEST = 1e-6  # of a Newton step
NEAR = 1e3  # tolerances that a fixed point may be away where it cannot be gone to


@dataclass
class Steady:
    """What `steady_state` returns.

    Attributes:
        y: the steady state, shaped as `y0`, differentiable; NaN where it was not found.
        growth: the largest real part of an eigenvalue of ∂f/∂y there, 0-d or (B,): negative where y* attracts, positive
            where it is unstable, zero (to rounding) where a conserved quantity or a circle of motions leaves it open.
        status: a `Status`; with per-sample batching an int64 tensor (B,) of them.
        iterations: of Newton's method.
        stats: of the solve that led there; zeros with method="newton".
        message: the diagnosis, empty after success.

    Example:
        >>> import torch, isocline
        >>> found = isocline.steady_state(lambda t, y: 1 - y**2, torch.tensor([0.5], dtype=torch.float64))
        >>> round(found.y.item(), 9), round(found.growth.item(), 9), found.success
        (1.0, -2.0, True)
    """

    y: Any
    growth: Tensor
    status: Any
    iterations: int
    stats: Stats
    message: str = ""

    @property
    def success(self) -> bool:
        """Whether every sample has its steady state."""
        return not bool(failed(self.status).any())


@outside_graphs
@outside_autocast
def steady_state(
    field: Callable[..., Any],
    y0: Any,
    t: float = 0.0,
    *,
    args: tuple[Any, ...] = (),
    method: str = "solve",
    solver: Solver | str = "kvaerno5",
    batching: str = "shared",
    rtol: Any = None,
    atol: Any = None,
    max_steps: int = 1000,
    throw: bool = True,
) -> Steady:
    """Finds y* with f(t, y*, *args) = 0, differentiable with respect to `args` and every parameter `f` reaches.

    Args:
        field: `f(t, y, *args)`, as for `solve`; it is asked at the one time `t`.
        y0: where the search begins, as for `solve`. The steady state does not change with it: its gradient is zero.
        t: that time, a number.
        args: further arguments of `f`, a tuple of anything; tensors in it get gradients.
        method: "solve": integrates until the slope is small, ‖f / (atol + rtol·|y|)‖ ≤ 1 (root mean square, per unit of
            time), then Newton's method to rounding: the steady state that y0 falls into, stable by necessity.
            "newton": damped Newton steps from y0, which find unstable ones too; which one is found may surprise.
        solver: for "solve", adaptive; implicit ones take few steps once the transients are over.
        batching: "shared": one system, whatever the shape of y0. "per_sample": the first dimension of every tensor is a
            batch of systems, each with a Jacobian, steps, an end and a status of its own.
        rtol, atol: of the slope, of the solve, and of the last Newton step; defaults as for `solve`.
        max_steps: attempted steps, and bound of Newton's iterations (never more than 50).
        throw: raise `SolveError` where there is no steady state to be found; False returns NaN there.

    The Jacobian is dense, (N, N) for a state (of one sample) of N numbers: for N up to some hundreds. Second
    derivatives are right; third ones are refused by name.

    Raises:
        TypeError, ValueError: naming the argument, what came, what was expected, what to try.
        SolveError: none was found; it says what happened and what to try, and carries the state where the search ended.
        GradientError: in `backward()`, where ∂f/∂y is singular: y* is then no function of the parameters.

    Source: the implicit function theorem; the step control of Newton's method is the natural monotonicity test of
    P. Deuflhard, Newton Methods for Nonlinear Problems (2004), section 3.3.

    Example:
        >>> import torch, isocline
        >>> k = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
        >>> found = isocline.steady_state(lambda t, y, k: k - y**2, torch.ones(1, dtype=torch.float64), args=(k,))
        >>> found.y.sum().backward()
        >>> round(found.y.item(), 9), round(k.grad.item(), 9)  # √k and 1 / (2√k)
        (2.0, 0.25)
    """
    if not callable(field):
        raise TypeError(f"field: expected a callable f(t, y, *args), got {type(field).__name__}")
    if method not in ("solve", "newton"):
        raise ValueError(f"method: {unknown(method, ['newton', 'solve'])}")
    if batching not in ("shared", "per_sample"):
        raise ValueError(f"batching: {unknown(batching, ['shared', 'per_sample'])}")
    if not isinstance(args, tuple):
        raise TypeError(f"args: expected a tuple, got {type(args).__name__}; write args=(x,) for a single argument")
    if isinstance(t, Tensor) and t.requires_grad:
        raise ValueError("t: requires grad, but is taken as a number here; hand it to f in args for its gradient")
    if not (isinstance(max_steps, int) and max_steps > 0):
        raise ValueError(f"max_steps={max_steps!r}, expected a positive integer")
    if transformed():
        raise GradientError(
            "steady_state under torch.func or forward-mode differentiation is not available: use backward()"
        )
    layout = Layout.of(y0, per_sample=batching == "per_sample")
    flat = layout.flatten(y0)
    system = _System(VectorField(field, layout, args), float(t), PID(rtol, atol))
    with torch.no_grad():
        start = flat.detach().view(-1, layout.size)
        stats, iterations, messages = Stats(), 0, [""] * len(start)
        y, status = start, start.new_zeros(len(start), dtype=torch.int64)
        if method == "solve":
            y, status, stats, messages = _integrated(system, field, y0, start, args, resolve_solver(solver), max_steps)
        y, status, iterations, growth = _newton(system, y, status, messages, min(max_steps, NEWTON), method == "solve")
    message = "; ".join(text for text in messages if text)
    shown = Status(int(status[0])) if layout.batch is None else status
    if throw and message:
        rows = layout.unflatten((y if layout.batch is not None else y[0])[None])
        partial = Solution(torch.tensor([float(t)], dtype=torch.float64), rows, stats, shown, message)
        raise SolveError(f"steady_state: {message}", shown, partial)
    found = torch.where(failed(status).unsqueeze(1), torch.nan, y)
    if torch.is_grad_enabled():
        found = system.attached(flat, found)
    return Steady(
        layout.unflatten(found.view(flat.shape)), growth.view(flat.shape[:-1]), shown, iterations, stats, message
    )


class _System:
    """The field at its one time, on R flat states (R, N): one, or one a sample."""

    def __init__(self, field: VectorField, t: float, controller: PID) -> None:
        self.field, self.t, self.controller = field, t, controller
        layout = field.layout
        self.tolerance = Tolerance(controller, layout)
        self.shared = layout.batch is None
        here = {"dtype": layout.clock_dtype, "device": layout.device}
        self.time = torch.full(() if self.shared else (layout.batch or 0,), t, **here)

    def slope(self, y: Float[Tensor, "rows state"], field: VectorField | None = None) -> Float[Tensor, "rows state"]:
        """f there."""
        field = field or self.field
        return field.at(self.time, y[0])[None] if self.shared else field.at(self.time, y)

    def size(self, x: Float[Tensor, "rows state"], y: Float[Tensor, "rows state"]) -> Float[Tensor, " rows"]:
        """‖x / (atol + rtol·|y|)‖ of every row."""
        return (x / self.tolerance.scale(y.abs())).square().mean(1).sqrt()

    def jacobian(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """f (R, N) and ∂f/∂y (R, N, N), without a graph."""
        with torch.enable_grad():
            x = y.detach().requires_grad_()
            f = self.slope(x)
            rows = jacobian(f, x)
            if len(y) > 1:
                self._check_alone(f, x, rows)
        return f.detach(), rows.detach()

    def _check_alone(self, f: Tensor, x: Tensor, rows: Tensor) -> None:
        """ValueError where the rows are not systems of their own: their Jacobians would be wrong."""
        w = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x)
        (want,) = torch.autograd.grad(f, x, w, retain_graph=True, allow_unused=True) if f.requires_grad else (None,)
        if want is None or not bool(want.isfinite().all()):
            return
        got = torch.einsum("rij,ri->rj", rows, w)
        if not torch.allclose(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max())):
            raise ValueError(
                "field: it couples the samples of the batch, so they have no steady states of their own; use "
                "batching='shared' for one common system"
            )

    def attached(self, y0: Tensor, y: Float[Tensor, "rows state"]) -> Float[Tensor, "rows state"]:
        """The rows y again, with their gradient."""
        ts: Any = [self.t] if self.shared else self.time.view(-1, 1)
        inputs = Inputs.of(Problem(self.field, ts, resolve_solver("kvaerno5"), self.controller), y0)
        if not (y0.requires_grad or inputs.tensors):
            return y
        return _Root.apply(self, inputs, y0.view(y.shape), y, *inputs.tensors)


def jacobian(f: Tensor, x: Tensor, create_graph: bool = False) -> Tensor:
    """∂f/∂x (R, N, N) of rows that do not depend on each other, from the graph of f (R, N): one product a column of f."""
    size = x.shape[1]
    if not f.requires_grad:
        return x.new_zeros(len(x), size, size)
    rows = []
    for i in range(size):
        (row,) = torch.autograd.grad(f[:, i].sum(), x, retain_graph=True, create_graph=create_graph, allow_unused=True)
        rows.append(torch.zeros_like(x) if row is None else row)
    return torch.stack(rows, 1)


def singular(matrices: Float[Tensor, "rows n n"]) -> Tensor:
    """(R,): whether a matrix has a smallest singular value at rounding, its rows and columns scaled to one."""
    matrices = matrices.nan_to_num(0.0, 0.0, 0.0)
    tiny = torch.finfo(matrices.dtype).tiny
    matrices = matrices / matrices.abs().amax(2, keepdim=True).clamp(min=tiny)
    matrices = matrices / matrices.abs().amax(1, keepdim=True).clamp(min=tiny)
    values = torch.linalg.svdvals(matrices)
    return values[:, -1] <= 4 * matrices.shape[-1] * torch.finfo(matrices.dtype).eps * values[:, 0]


# ---- the search ---------------------------------------------------------------------------------------------------
def _integrated(
    system: _System, field: Any, y0: Any, start: Tensor, args: tuple[Any, ...], solver: Any, max_steps: int
) -> tuple[Tensor, Tensor, Stats, list[str]]:
    """Where the slope has become small: (y, status, stats, messages), a row a system."""
    layout, controller = system.field.layout, system.controller
    lead = () if layout.batch is None else (layout.batch,)

    def frozen(clock: Tensor, y: Any, *args: Any) -> Any:
        return field(torch.full_like(clock, system.t), y, *args)

    def excess(clock: Tensor, y: Any, *args: Any) -> Tensor:
        flat = layout.flatten(y, "y", lead).view(-1, layout.size)
        return system.size(system.slope(flat), flat).log().view(lead)

    def slow(y: Tensor) -> Tensor:
        return system.size(system.slope(y), y) <= 1

    here = slow(start)
    status = torch.where(here, int(Status.EVENT), int(Status.MAX_STEPS))
    if bool(here.all()):
        return start, torch.zeros_like(status), Stats(), [""] * len(start)
    ts: Any = [0.0, HORIZON]
    if not system.shared:  # samples that are there already have nothing to do
        ends = torch.where(
            here, torch.nan, torch.full((len(start),), HORIZON, dtype=torch.float64, device=start.device)
        )
        ts = torch.stack([torch.zeros_like(ends), ends], 1)
    state = torch.utils._pytree.tree_map(lambda leaf: leaf.detach(), y0)
    options: dict[str, Any] = {"args": args, "solver": solver, "controller": replace(controller), "throw": False}
    batching = "shared" if system.shared else "per_sample"
    sol = solve(frozen, state, ts, batching=batching, max_steps=max_steps, events=Event(excess), **options)
    reached = torch.as_tensor(sol.status, device=start.device).view(-1)
    at_event = here | (reached == int(Status.EVENT))
    y = start
    if len(sol.event_ts):
        ended = layout.flatten(sol.event_ys, "y", (len(sol.event_ts), *lead))[0].view(start.shape)
        y = torch.where((at_event & ~here).unsqueeze(1), ended, start)
    # Reaching the horizon without becoming slow is no success here.
    status = torch.where(reached == int(Status.SUCCESS), int(Status.MAX_STEPS), reached)
    status = torch.where(at_event, int(Status.SUCCESS), status)
    messages = [""] * len(start)
    for i in failed(status).nonzero().squeeze(1).tolist():
        what = sol.message if system.shared else Status(int(reached[i])).message
        if int(reached[i]) == int(Status.SUCCESS):
            what = f"it still moves after {HORIZON:g} units of time"
        messages[i] = (
            f"the solve found no steady state{_where(system, i)}: {what}. The system may oscillate, drift or grow, or be slow "
            f"(raise max_steps={max_steps}); method='newton' looks for a fixed point without going there"
        )
    return y, status, sol.stats, messages


def _newton(
    system: _System, y: Tensor, status: Tensor, messages: list[str], limit: int, polish: bool
) -> tuple[Tensor, Tensor, int, Tensor]:
    """(y, status, iterations, growth) after damped Newton steps of the rows that have not failed.

    A step is taken if the next one, with the same Jacobian, would be shorter (Deuflhard's natural monotonicity): the
    units of f do not matter. To `polish`, rows with a singular Jacobian are left where the solve has brought them.
    """
    going = ~failed(status)
    done, count = torch.zeros_like(going), 0
    eye = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    f, matrix = system.jacobian(y)
    stuck = torch.zeros_like(going)
    if polish and bool((open_ := going & singular(matrix)).any()):
        done = open_ & _arrived(system, y, f, matrix)
        stuck = open_ & ~done
    while bool((going & ~done & ~stuck).any()) and count < limit:
        active = going & ~done & ~stuck
        usable = active & matrix.isfinite().all((1, 2)) & f.isfinite().all(1)
        factors = torch.linalg.lu_factor_ex(torch.where(usable.view(-1, 1, 1), matrix, eye))[:2]
        step = -torch.linalg.lu_solve(*factors, f.unsqueeze(2)).squeeze(2)
        size = system.size(step, y)
        stuck = stuck | (active & ~(usable & size.isfinite()))
        active = active & ~stuck
        damping = torch.ones_like(size)
        while True:
            trial = torch.where(active.unsqueeze(1), y + damping.unsqueeze(1) * step, y)
            following = torch.linalg.lu_solve(*factors, system.slope(trial).unsqueeze(2)).squeeze(2)
            shorter = system.size(following, y) <= (1 - damping / 4) * size
            short = active & (damping > SHORTEST) & ~(shorter | (size <= 1))
            if not bool(short.any()):
                break
            damping = torch.where(short, damping / 2, damping)
        stuck = stuck | (active & (damping <= SHORTEST))
        y = torch.where((active & ~stuck).unsqueeze(1), trial, y)
        done = done | (active & ~stuck & (size <= 1))
        count += 1
        f, matrix = system.jacobian(y)
    growth = torch.full_like(y[:, 0], torch.nan)
    fine = matrix.isfinite().all((1, 2))
    values = torch.linalg.eigvals(matrix[fine])
    growth[fine] = values.real.amax(1)
    fastest = torch.zeros_like(growth)
    fastest[fine] = values.abs().amax(1)
    unstable = growth > torch.finfo(y.dtype).eps ** 0.5 * fastest
    for i in going.nonzero().squeeze(1).tolist():
        if not bool(done[i]):
            status[i] = int(Status.STEP_TOO_SMALL if bool(stuck[i]) else Status.MAX_STEPS)
            messages[i] = _why(system, i, f, matrix, count, bool(stuck[i]), polish)
        elif polish and bool(unstable[i]):
            status[i] = int(Status.STEP_TOO_SMALL)
            messages[i] = (
                f"the solution slows down{_where(system, i)} at a fixed point that is unstable (it grows at the rate "
                f"{float(growth[i]):.3g} per unit of time): no solve ends there. Tighten rtol and atol or begin elsewhere to "
                f"go past it, or take it with method='newton'"
            )
    return y, status, count, growth


def _arrived(system: _System, y: Tensor, f: Tensor, matrix: Tensor) -> Tensor:
    """Of rows with a singular Jacobian: whether a fixed point is near, y − J⁺f; a drift is a slope that J cannot undo."""
    matrix, f = matrix.nan_to_num(0.0, 0.0, 0.0), f.nan_to_num(0.0, 0.0, 0.0)
    eps = torch.finfo(y.dtype).eps
    step = torch.einsum("rij,rj->ri", torch.linalg.pinv(matrix, rtol=eps**0.5), f)
    left = f - torch.einsum("rij,rj->ri", matrix, step)
    rounding = 1e3 * eps * torch.einsum("rij,rj->ri", matrix.abs(), y.abs())
    return (left.norm(dim=1) <= 1e-3 * f.norm(dim=1) + rounding.norm(dim=1)) & (system.size(step, y) <= NEAR)


def _why(system: _System, i: int, f: Tensor, matrix: Tensor, count: int, stuck: bool, polish: bool) -> str:
    """Why Newton's method did not converge in row i."""
    where = _where(system, i)
    if not bool(f[i].isfinite().all() and matrix[i].isfinite().all()):
        return f"the field or its Jacobian is NaN or infinite{where}; begin elsewhere, or bound the field"
    if bool(singular(matrix[i : i + 1])):
        if polish:
            return (
                f"the solution{where} moves on, at a slope that is small only beside its size or the tolerances, and ∂f/∂y is "
                f"singular: it drifts, or is slow. Tighten rtol and atol to go on longer"
            )
        return (
            f"∂f/∂y is singular{where} after {count} iterations: a conserved quantity, a component f does not depend on, or "
            f"a fold. Take out what is conserved, or use method='solve'"
        )
    found = f"the slope is small{where}, but Newton's method finds" if polish else f"Newton's method found{where}"
    ended = "its steps no longer help" if stuck else f"{count} iterations were not enough"
    advice = "a slow passage, perhaps: tighten rtol and atol" if polish else "begin nearer to it, or use method='solve'"
    return f"{found} no fixed point: {ended}. There may be none; {advice}"


def _where(system: _System, i: int) -> str:
    return "" if system.shared else f" in sample {i}"


# ---- the gradient -------------------------------------------------------------------------------------------------
class _Root(torch.autograd.Function):
    """(y0, y*, args, parameters) -> y*, as a function of the args and parameters."""

    @staticmethod
    def forward(ctx: Any, system: _System, inputs: Inputs, y0: Tensor, y: Tensor, *tensors: Tensor) -> Tensor:
        ctx.system, ctx.inputs = system, inputs
        out = y.clone()
        ctx.save_for_backward(out, *tensors)
        return out

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (g,) = cotangents
        y, *tensors = ctx.saved_tensors
        grads = _PullBack.apply(ctx.system, ctx.inputs, torch.is_grad_enabled(), g, y, *tensors)
        return None, None, torch.zeros_like(g), None, *grads


class _PullBack(torch.autograd.Function):
    """The cotangents of args and parameters, as a differentiable operation where `again`.

    It starts at stand-ins of y* and the args, which may depend on each other and on the parameters outside.
    """

    @staticmethod
    def forward(
        ctx: Any, system: _System, inputs: Inputs, again: bool, g: Tensor, y: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ok = ~y.isnan().any(1)
        with torch.enable_grad():
            cotangent = g.detach().requires_grad_(again)
            root = torch.where(ok.unsqueeze(1), y, 0.0).detach().requires_grad_()
            f = system.slope(root, inputs.field)
            matrix = jacobian(f, root, create_graph=again)
            _refuse_singular(system, matrix.detach(), ok)
            eye = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
            matrix = torch.where(ok.view(-1, 1, 1), matrix, eye)  # of what was not found nothing depends on anything
            right = torch.where(ok.unsqueeze(1), cotangent, 0.0).unsqueeze(2)
            weights = -torch.linalg.solve(matrix.mT, right).squeeze(2)
            grads = torch.autograd.grad(
                f, inputs.sources, weights, create_graph=again, retain_graph=True, allow_unused=True
            )
        ctx.again = (grads, [cotangent, root, *inputs.sources]) if again else None
        return tuple(
            torch.zeros_like(s) if p is None else p.detach() for p, s in zip(grads, inputs.sources, strict=True)
        )

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise GradientError("steady_state has first and second derivatives; third ones are not available")
        grads, targets = ctx.again
        pairs = [(p, c) for p, c in zip(grads, cotangents, strict=True) if p is not None and p.requires_grad]
        if not pairs:
            return None, None, None, *[None] * len(targets)
        parts = torch.autograd.grad(
            [p for p, _ in pairs], targets, [c for _, c in pairs], allow_unused=True, retain_graph=True
        )
        return None, None, None, *parts


def _refuse_singular(system: _System, matrix: Tensor, ok: Tensor) -> None:
    bad = (ok & singular(matrix)).nonzero().squeeze(1)
    if len(bad):
        raise GradientError(
            f"steady_state: ∂f/∂y is singular at the steady state{_where(system, int(bad[0]))}, so that it is no function of "
            f"the parameters alone: a conserved quantity or a continuum of fixed points (it depends on y0 then), or a fold. "
            f"Take out what is conserved, or differentiate a solve to a late time"
        )
