"""The continuous adjoint along the stored solution, the parameters' share integrated with it.

With y(t) from the dense output of the way forward, one state [a, a_θ] is solved backwards:

    da/dt = −aᵀ ∂f/∂y (t, y(t)),      a(t_i⁻) = a(t_i⁺) + ∂L/∂y_i at every observation,
    da_θ/dt = −aᵀ ∂f/∂θ (t, y(t)),    a_θ(t_N) = 0,  dL/dθ = a_θ(t_0).

It is the adjoint of 2018 (`Backsolve`) without y, which is looked up and not integrated backwards; and `GaussAdjoint`
with the integral over θ done by the solver and not by quadrature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Controller
from isocline.engines.eager import Problem
from isocline.field import Layout, VectorField
from isocline.gradients.along import AlongPath, Path
from isocline.gradients.base import Gradient, GradientError, Inputs, add_up
from isocline.gradients.intervals import Interval
from isocline.gradients.way_back import WayBack, real_view, unpack
from isocline.solvers import snake_case


@dataclass(frozen=True)
class Interpolating(WayBack, Gradient):
    """The continuous adjoint of [a, a_θ] along the stored solution.

    Not exact: it differs from the derivative of the computed solution by the errors of the interpolant and of the way
    back, of the size of the tolerances. Right on contracting systems, where `Backsolve` is not. The step control of the
    way back sees the parameters' share too, so it is the continuous adjoint to take where the gradient with respect to
    parameters is wanted to a tolerance; the price is a state as long as y and all parameters together. Memory: the
    stages of all accepted steps, no graph.

    Args:
        solver: for the way back, explicit; None: the forward one.
        controller: for the way back; None: the forward one, with `rtol` and `atol` below in place of its own.
        rtol, atol: tolerances of the way back, numbers; they are those of a(t) scaled to size one.
        seminorm: leave a_θ, on which nothing depends, out of the error norm (Kidger et al. 2021). Fewer evaluations, but
            then only a(t) chooses the steps: where it changes slowly and ∂f/∂θ fast, the share of θ is stepped over.

    The error norm is the larger of those of a and of a_θ: in a mean over both the few numbers of a would drown.

    With per-sample batching the samples go back together, each over its own interval at its own pace.
    Second derivatives are refused by name; use `Checkpointed`.

    Source: the method InterpolatingAdjoint of SciMLSensitivity.jl (C. Rackauckas et al., Universal Differential
    Equations for Scientific Machine Learning, arXiv:2001.04385, 2020).

    Example:
        >>> import torch, isocline
        >>> k = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> field = lambda t, y: -k * (y - torch.cos(t))
        >>> isocline.solve(field, y0, [0.0, 2.0], gradient=Interpolating()).ys[-1].sum().backward()
        >>> round(k.grad.item(), 5)
        -0.03844
    """

    seminorm: bool = False

    def plan(self, problem: Problem, inputs: Inputs) -> _Plan:
        back = self.back_solver(problem)
        if not back.tableau.explicit:
            name = snake_case(type(back).__name__)
            raise GradientError(
                f"Interpolating: {name!r} is implicit, and would need the Jacobian of [a, a_θ] on the way back: use "
                f"gradient='gauss_adjoint', which is implicit in a alone, Interpolating(solver='tsit5'), or "
                f"gradient='checkpointed'"
            )
        return _Plan(self, problem, inputs)


class _Plan(AlongPath):
    def __init__(self, method: Interpolating, problem: Problem, inputs: Inputs) -> None:
        super().__init__(method, problem, inputs)
        self.method = method

    def back_over(self, interval: Interval, a: Tensor, totals: list[Tensor | None]) -> Tensor:
        with torch.enable_grad():  # picking rows of the args must stay connected to them
            field = interval.field(self.inputs.field)
        size, sources = float(a.abs().max()), self.inputs.sources
        parameters = sum(real_view(x).numel() for x in sources)
        problem = self._adjoint_problem(interval, field, self.path.of(interval), a, parameters)
        result = self.integrate(interval, problem, torch.cat([a.reshape(-1) / size, a.new_zeros(parameters)]))
        back, share = (result.y_end * size).split([a.numel(), parameters])
        add_up(totals, unpack(share, sources))
        return back.view_as(a)

    def _adjoint_problem(
        self, interval: Interval, field: VectorField, path: Path, a: Tensor, parameters: int
    ) -> Problem:
        """The initial value problem of [a, a_θ], on one flat buffer."""

        def adjoint(clock: Tensor, z: Tensor) -> Tensor:
            with torch.enable_grad():
                y = path.at(interval.time(clock)).requires_grad_()
                slope = interval.slope(field, clock, y)
                sources = [y, *self.inputs.sources]
                grads: Sequence[Tensor | None] = [None] * len(sources)
                if slope.requires_grad:
                    direction = -z[: a.numel()].view_as(y)
                    # retain_graph: it may run on into tensors that f captured, which the other stages need too.
                    grads = torch.autograd.grad(slope, sources, direction, allow_unused=True, retain_graph=True)
            parts = (torch.zeros_like(x) if g is None else g for g, x in zip(grads, sources, strict=True))
            return torch.cat([real_view(g).to(z.dtype) for g in parts])

        return Problem(
            VectorField(adjoint, Layout.of(a.new_empty(a.numel() + parameters))),
            interval.clock,
            self.solver,
            interval.paced(self._controller(a, parameters)),
            step_ts=interval.stops(self.problem.step_ts),
            jump_ts=interval.stops(self.problem.jump_ts),
            max_steps=self.problem.max_steps,
        )

    def _controller(self, a: Tensor, parameters: int) -> Controller:
        """That of the way back, its tolerances laid out over [a, a_θ]."""
        controller = self.method.controller or self.problem.controller
        if not isinstance(controller, PID):
            return controller
        parts = [a.numel(), parameters] if parameters and not self.method.seminorm else [a.numel()]

        def norm(x: Tensor) -> Tensor:
            return torch.stack([part.square().mean() for part in x[: sum(parts)].split(parts)]).max().sqrt()

        def over(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.cat([value.expand(a.shape).reshape(-1), value.min().expand(parameters)])

        rtol, atol = map(over, self.method.tolerances(self.problem))
        return replace(controller, rtol=rtol, atol=atol, norm=norm, first_step=None)
