"""The continuous adjoint along the stored solution: only a(t) is integrated backwards.

With y(t) from the dense output of the way forward, and a(t) = ∂L/∂y(t),

    da/dt = −aᵀ ∂f/∂y (t, y(t)),      a(t_i⁻) = a(t_i⁺) + ∂L/∂y_i at every observation,
    dL/dθ = ∫ aᵀ ∂f/∂θ (t, y(t)) dt,

the integral by Gauss–Legendre quadrature along the way back. y is never integrated backwards, so a system that
contracts, whose y cannot be had that way, is as good as any: its adjoint contracts backwards.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.control import PID, Controller
from isocline.engines import eager
from isocline.engines.eager import Problem, Trajectory, shared
from isocline.engines.eager.dense import dense_path
from isocline.field import Layout, VectorField
from isocline.gradients.backsolve import Refused
from isocline.gradients.base import Gradient, GradientError, Inputs, add_up
from isocline.gradients.intervals import Interval, intervals_before
from isocline.gradients.way_back import WayBack
from isocline.solution import DensePath, Stats, Status
from isocline.solvers.runge_kutta import DenseStep


@dataclass(frozen=True)
class GaussAdjoint(WayBack, Gradient):
    """The continuous adjoint of a(t) alone, y(t) interpolated, parameters by quadrature.

    Not exact: it differs from the derivative of the computed solution by the errors of the interpolant, of the way back
    and of the quadrature, all of the size of the tolerances. Right on stiff and contracting systems, where `Backsolve`
    is not; an implicit `solver` is implicit backwards too. Memory: the stages of all accepted steps, no graph. The
    state of the way back has the size of y whatever the number of parameters. Not fast: with observations close
    together it costs as much as `Backsolve`, several times `Checkpointed`, which is what to use unless the graph of a
    single step is too large or the continuous adjoint is wanted for its own sake.

    Args:
        solver: for the way back; None: the forward one.
        controller: for the way back; None: the forward one, with `rtol` and `atol` below in place of its own.
        rtol, atol: tolerances of the way back, numbers; they are those of a(t) scaled to size one.

    The quadrature takes every step of the way back, cut where a step of the way forward ends, with so many nodes that it
    is of higher order than the steps. What neither a(t) nor y(t) shows it may miss: a field θ·u(t) at θ = 0, u fast,
    wants `max_step` or a `step`, as the way forward does.

    With per-sample batching the samples go back together, each over its own interval at its own pace.
    Second derivatives are refused by name; use `Checkpointed`.

    Source: the method of that name in SciMLSensitivity.jl (C. Rackauckas et al., Universal Differential Equations for
    Scientific Machine Learning, arXiv:2001.04385, 2020); the quadrature adjoint of CVODES (A. C. Hindmarsh et al.,
    SUNDIALS, ACM Trans. Math. Softw. 31 (2005)) is its ancestor.

    Example:
        >>> import torch, isocline
        >>> k = torch.tensor(50.0, dtype=torch.float64, requires_grad=True)
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> field = lambda t, y: -k * (y - torch.cos(t))
        >>> isocline.solve(field, y0, [0.0, 2.0], gradient=GaussAdjoint()).ys[-1].sum().backward()
        >>> round(k.grad.item(), 6)
        -0.00037
    """

    def run(self, problem: Problem, y0: Tensor) -> Trajectory:
        inputs = Inputs.of(problem, y0)
        if not (y0.requires_grad or inputs.tensors):
            return eager.integrate(problem, y0)
        plan = _Plan(self, problem, inputs)
        ys = _Adjoint.apply(plan, y0, *inputs.tensors)
        trajectory, plan.trajectory = plan.trajectory, None
        assert trajectory is not None
        trajectory.ys = ys
        if problem.dense:
            trajectory.dense_y = [Refused.apply(y, ys, "GaussAdjoint") for y in trajectory.dense_y]
        return trajectory


class _Plan:
    """What the way forward leaves for the way back; it must not hold the outputs."""

    def __init__(self, method: GaussAdjoint, problem: Problem, inputs: Inputs) -> None:
        self.method, self.problem, self.inputs = method, problem, inputs
        self.solver = method.back_solver(problem)
        self.nodes, self.weights = gauss_legendre(max(2, self.solver.order // 2 + 1))
        self.stats = Stats()
        self.trajectory: Trajectory | None = None

    def solve(self, y0: Tensor) -> Tensor:
        """The way forward, all its steps kept."""
        trajectory = eager.integrate(replace(self.problem, dense=True), y0)
        self.problem.start = None
        self.inputs.field.batch_args = self.problem.field.batch_args
        self.path = Path(dense_path(self.problem, trajectory, y0)[0], self.problem)
        if not self.problem.dense:
            trajectory.steps, trajectory.dense_y, trajectory.dense_hk = [], [], []
        self.stats, self.trajectory = trajectory.stats, trajectory
        return trajectory.ys

    def pull_back(self, ys: Tensor, grad_ys: Tensor) -> list[Tensor | None]:
        """From the last observation to the first: jump, then solve to the one before."""
        a = torch.zeros_like(ys[0])
        totals: list[Tensor | None] = [None] * len(self.inputs.sources)
        count = self.inputs.field.evaluations
        for index in range(len(ys) - 1, 0, -1):
            a = a + torch.where(ys[index].isnan(), 0.0, grad_ys[index])  # the jump; nothing where not reached
            for interval in intervals_before(index, ys, self.problem):
                part = interval.part(a)
                if bool(part.any()):
                    a = interval.merge(a, self._back_over(interval, part, totals))
        self.stats.evaluations_backward += self.inputs.field.evaluations - count
        return [a + grad_ys[0], *totals]

    def _back_over(self, interval: Interval, a: Tensor, totals: list[Tensor | None]) -> Tensor:
        """a from the interval's end to its start; the parameters' share is added to `totals`.

        The adjoint is linear in a: it is solved for a of size one, so that the gradient does not depend on the scale
        of the loss through the absolute tolerance.
        """
        with torch.enable_grad():  # picking rows of the args must stay connected to them
            field = interval.field(self.inputs.field)
        size, path = float(a.abs().max()), self.path.of(interval)
        problem = self._adjoint_problem(interval, field, path, a)
        result = shared.integrate(problem, a.reshape(-1) / size)
        if result.status is not Status.SUCCESS:
            raise GradientError(
                f"GaussAdjoint: integrating a(t) backwards from t = {interval.t1:.6g} to t = {interval.t0:.6g} failed: "
                f"{result.status.message}. Use gradient='checkpointed', or for a stiff system an implicit solver"
            )
        if self.inputs.sources:
            self._quadrature(interval, field, path, result, a, size, totals)
        return result.y_end.view_as(a) * size

    def _adjoint_problem(self, interval: Interval, field: VectorField, path: Path, a: Tensor) -> Problem:
        """da/d(clock) = −aᵀ ∂f/∂y as an initial value problem, in the shape the field works in.

        Differentiable itself where somebody records it, in a and in time: implicit solvers ask for both.
        """
        shape = self.problem.field.shaped(a).shape if a.dim() == 1 else a.shape

        def adjoint(clock: Tensor, z: Tensor) -> Tensor:
            recorded = torch.is_grad_enabled()
            with torch.enable_grad():
                y = path.at(interval.time(clock))
                y = y if y.requires_grad else y.requires_grad_()
                slope = interval.slope(field, clock, y)
                if not slope.requires_grad:
                    return torch.zeros_like(z)
                (back,) = torch.autograd.grad(
                    slope, y, -z.reshape(y.shape), allow_unused=True, retain_graph=True, create_graph=recorded
                )
            return torch.zeros_like(z) if back is None else back.reshape(z.shape)

        return Problem(
            VectorField(adjoint, Layout.of(torch.empty(shape, dtype=a.dtype, device=a.device))),
            interval.clock,
            self.solver,
            interval.paced(self._controller(a, shape)),
            step_ts=interval.stops(self.problem.step_ts),
            jump_ts=interval.stops(self.problem.jump_ts),
            max_steps=self.problem.max_steps,
            dense=True,
        )

    def _controller(self, a: Tensor, shape: torch.Size) -> Controller:
        """That of the way back, its tolerances laid out over a."""
        controller = self.method.controller or self.problem.controller
        if not isinstance(controller, PID):
            return controller

        def over(value: Any) -> Any:
            return value.expand(a.shape).reshape(shape) if isinstance(value, Tensor) else value

        rtol, atol = map(over, self.method.tolerances(self.problem))
        return replace(controller, rtol=rtol, atol=atol, norm=None, first_step=None)

    def _quadrature(
        self,
        interval: Interval,
        field: VectorField,
        path: Path,
        back: Trajectory,
        a: Tensor,
        size: float,
        totals: list[Tensor | None],
    ) -> None:
        """Adds ∫ aᵀ ∂f/∂θ over the interval to `totals`: one vector-Jacobian product a node."""
        dense = DenseStep.of(self.solver.tableau, a)
        for (s, s1), start, hk in zip(back.steps, back.dense_y, back.dense_hk, strict=True):
            cuts = path.cuts(interval, s, s1)
            nodes, weights = [], []
            for left, right in itertools.pairwise(cuts):
                nodes += [left + (right - left) * x for x in self.nodes]
                weights += [abs(right - left) * w for w in self.weights]
            theta = a.new_tensor([(node - s) / (s1 - s) for node in nodes])
            inside = start + dense.weights(theta) @ hk[0]  # a(t) at the nodes
            inside = inside * (a.new_tensor(weights) * size).unsqueeze(1)
            for node, direction in zip(nodes, inside.view(-1, *a.shape), strict=True):
                add_up(totals, self._product(interval, field, path, node, direction))

    def _product(
        self, interval: Interval, field: VectorField, path: Path, node: float, direction: Tensor
    ) -> list[Tensor | None]:
        """aᵀ ∂f/∂θ at one time of the clock."""
        sources = self.inputs.sources
        clock = torch.tensor(node, dtype=self.problem.field.layout.clock_dtype, device=direction.device)
        with torch.enable_grad():
            slope = interval.slope(field, clock, path.at(interval.time(clock)))
            if not slope.requires_grad:
                return [None] * len(sources)
            # retain_graph: it may run on into tensors that f captured, which the other nodes need too.
            return list(torch.autograd.grad(slope, sources, direction, allow_unused=True, retain_graph=True))


class Path:
    """y(t) of the way forward, at one time, or at one of every sample.

    Args:
        dense: its steps.
        problem: they are of.
    """

    def __init__(self, dense: DensePath, problem: Problem) -> None:
        self.weights, self.y, self.hk = dense.weights[0], dense.y.detach(), dense.hk.detach()
        self.shared = dense.rows is None
        if dense.rows is None:
            index = torch.arange(len(dense.ends), device=self.y.device)
            starts, ends, self.index = dense.starts[None], dense.ends[None], index[None]
        else:
            starts, ends, self.index = dense.starts, dense.ends, dense.rows
        self.starts, self.ends = starts, ends
        self.sign = torch.where(ends[:, :1] >= starts[:, :1], 1.0, -1.0).to(ends.dtype)
        self.keys = (ends * self.sign).nan_to_num(nan=torch.inf)
        self.last = ((~ends.isnan()).sum(1, keepdim=True) - 1).clamp(min=0)
        self.times: list[float] = self.keys[0].tolist() if self.shared else []
        self.forward = self.times[0] if self.times else 0.0
        self.direction = float(self.sign[0]) if self.times else 1.0

    def of(self, interval: Interval) -> Path:
        """That of the samples an interval is of."""
        if self.shared:
            return self
        part = object.__new__(Path)
        part.__dict__.update(self.__dict__)
        for name in ("starts", "ends", "index", "sign", "keys", "last"):
            setattr(part, name, interval.part(getattr(self, name)))
        return part

    def at(self, t: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows state"]:
        """The interpolant, differentiable in t."""
        clock = t.reshape(-1, 1).to(self.keys.dtype)
        step = torch.minimum(torch.searchsorted(self.keys, (clock * self.sign).detach()), self.last)
        start, end = self.starts.gather(1, step), self.ends.gather(1, step)
        theta = ((clock - start) / (end - start)).to(self.y.dtype).squeeze(1)
        index = self.index.gather(1, step).squeeze(1)
        inside = torch.bmm(self.weights(theta).unsqueeze(1), self.hk.index_select(0, index)).squeeze(1)
        return (self.y.index_select(0, index) + inside).reshape(*t.shape, -1)

    def cuts(self, interval: Interval, s: float, s1: float) -> list[float]:
        """From s to s1 on the clock, cut so that no piece is longer than the steps of the way forward there.

        Where these are the samples' own there are no common cuts: as many pieces as the busiest sample has steps.
        """
        if self.shared:
            low, high = sorted((s * self.direction, s1 * self.direction))
            inside = self.times[bisect_right(self.times, low) : bisect_left(self.times, high)]
            inside = [t * self.direction for t in inside]
            return [s, *(reversed(inside) if s1 * self.direction < s * self.direction else inside), s1]
        clock = torch.tensor([s, s1], dtype=self.keys.dtype, device=self.keys.device)
        times = torch.stack([interval.time(x) for x in clock], -1).reshape(len(self.keys), 2)
        places = torch.searchsorted(self.keys, times * self.sign)
        count = 1 + int((places[:, 1] - places[:, 0]).abs().max())
        return [s + (s1 - s) * k / count for k in range(count)] + [s1]


class _Adjoint(torch.autograd.Function):
    """(y0, args, parameters) -> ys."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, y0: Tensor, *tensors: Tensor) -> Tensor:
        ctx.plan = plan
        ys = plan.problem.field.shaped(plan.solve(y0.detach()))
        ctx.shape = (len(ys), *y0.shape)
        # The parameters to notice changes in place between the two ways.
        ctx.save_for_backward(ys, *tensors)
        return ys

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (grad_ys,) = cotangents
        if torch.is_grad_enabled():
            raise GradientError("GaussAdjoint has no second derivatives; use gradient='checkpointed' or 'backprop'")
        ys, *_ = ctx.saved_tensors
        return (None, *ctx.plan.pull_back(ys.detach().reshape(ctx.shape), grad_ys.reshape(ctx.shape)))


@cache
def gauss_legendre(count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights on [0, 1], exact up to degree 2·count − 1.

    From the eigenvalues of the Jacobi matrix (G. H. Golub, J. H. Welsch, Math. Comp. 23 (1969)).

    Example:
        >>> nodes, weights = gauss_legendre(3)
        >>> round(sum(w * x**5 for x, w in zip(nodes, weights)), 12)
        0.166666666667
    """
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(off.diag(1) + off.diag(-1))
    return tuple(((nodes + 1) / 2).tolist()), tuple((vectors[0] ** 2).tolist())
