"""The continuous adjoint along the stored solution: only a(t) is integrated backwards.

With y(t) from the dense output of the way forward, and a(t) = ∂L/∂y(t),

    da/dt = −aᵀ ∂f/∂y (t, y(t)),      a(t_i⁻) = a(t_i⁺) + ∂L/∂y_i at every observation,
    dL/dθ = ∫ aᵀ ∂f/∂θ (t, y(t)) dt,

the integral by Gauss–Legendre quadrature along the way back. y is never integrated backwards, so a system that
contracts, whose y cannot be had that way, is as good as any: its adjoint contracts backwards.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Controller
from isocline.engines.eager import Problem, Trajectory
from isocline.field import Layout, VectorField
from isocline.gradients.along import AlongPath, Path
from isocline.gradients.base import Gradient, Inputs, add_up
from isocline.gradients.intervals import Interval
from isocline.gradients.way_back import WayBack
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

    def plan(self, problem: Problem, inputs: Inputs) -> _Plan:
        return _Plan(self, problem, inputs)


class _Plan(AlongPath):
    def __init__(self, method: GaussAdjoint, problem: Problem, inputs: Inputs) -> None:
        super().__init__(method, problem, inputs)
        self.method = method
        self.nodes, self.weights = gauss_legendre(max(2, self.solver.order // 2 + 1))

    def back_over(self, interval: Interval, a: Tensor, totals: list[Tensor | None]) -> Tensor:
        with torch.enable_grad():  # picking rows of the args must stay connected to them
            field = interval.field(self.inputs.field)
        size, path = float(a.abs().max()), self.path.of(interval)
        problem = self._adjoint_problem(interval, field, path, a)
        result = self.integrate(interval, problem, a.reshape(-1) / size)
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
                weights += [
                    (left - right) * w for w in self.weights
                ]  # signed: the clock goes back, whichever way t does
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
