"""The continuous adjoint of Chen et al. (2018): solve backwards in time.

With a(t) = ∂L/∂y(t) the way back integrates, from one observation to the one before it,

    dy/dt = f(t, y, θ)                    y(t_i) is the stored observation           (eq. 2)
    da/dt = −aᵀ ∂f/∂y                     a(t_i⁻) = a(t_i⁺) + ∂L/∂y_i, the jump       (eq. 4, 46)
    da_θ/dt = −aᵀ ∂f/∂θ                   a_θ(t_N) = 0                                (eq. 5, 51)

as one state [y, a, a_θ] (eq. 48–50, without the row for t: `gradients.times` has its closed form). Both products are
one vector-Jacobian product of f with cotangent −a.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from isocline.control import PID, Controller
from isocline.engines.eager import Problem, shared
from isocline.field import Layout, VectorField
from isocline.gradients.base import Gradient, GradientError, Inputs
from isocline.gradients.intervals import Interval, intervals_before
from isocline.gradients.way_back import Plan, WayBack, real_view, unpack
from isocline.solution import Status
from isocline.solvers import snake_case

RAISE_ABOVE = 1e-2  # measured on 238 cases: of 28 garbage gradients 27 reconstruct y worse than this
WARN_ABOVE = 1e-3


@dataclass(frozen=True)
class Backsolve(WayBack, Gradient):
    """The continuous adjoint: memory independent of the number of steps.

    Not exact: it differs from the derivative of the computed solution by the solver's error on the way back, and is
    garbage where y cannot be integrated backwards (contracting, stiff or under-resolved systems). So at every
    observation the y that arrives is compared with the stored one.

    Args:
        solver: for the way back; None: the forward one.
        controller: for the way back; None: the forward one, with `rtol` and `atol` below in place of its own. Looser
            tolerances here are the largest saving there is (a hundredfold looser: often a gradient within 1 %).
        rtol, atol: tolerances of the way back, numbers.
        seminorm: leave a_θ, on which nothing depends, out of the error norm (Kidger et al. 2021); saves evaluations.
        check: what to do where the reconstructed y misses the stored one by more than 1 % of the trajectory's scale:
            "raise" a `GradientError`, "warn" (as above 0.1 % in any case), or "off". Fields linear in y have a right
            gradient even then.

    With per-sample batching the samples go back together, each over its own interval at its own pace.
    Second derivatives are refused by name; use `Checkpointed`.

    Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural Ordinary Differential Equations, NeurIPS
    2018, algorithm 2.

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
        >>> isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], gradient=Backsolve()).ys[-1].sum().backward()
        >>> round(y0.grad.item(), 6)
        0.367879
    """

    seminorm: bool = True
    check: str = "raise"

    def __post_init__(self) -> None:
        if self.check not in ("raise", "warn", "off"):
            raise ValueError(f"Backsolve: check={self.check!r}, expected 'raise', 'warn' or 'off'")
        super().__post_init__()

    def back_controller(self, problem: Problem) -> Controller:
        """That of the way back, for a state like the forward one."""
        controller = self.controller or problem.controller
        if not isinstance(controller, PID):
            return controller
        rtol, atol = self.tolerances(problem)
        return replace(controller, rtol=rtol, atol=atol, first_step=None)

    def plan(self, problem: Problem, inputs: Inputs) -> _Plan:
        back = self.back_solver(problem)
        if not back.tableau.explicit:
            name = snake_case(type(back).__name__)
            raise GradientError(
                f"Backsolve: {name!r} is implicit, and would need the Jacobian of [y, a, a_θ] on the way back: give the way "
                f"back an explicit solver, Backsolve(solver='tsit5'), or use gradient='checkpointed'"
            )
        return _Plan(self, problem, inputs)


class _Plan(Plan):
    def __init__(self, method: Backsolve, problem: Problem, inputs: Inputs) -> None:
        super().__init__(method, problem, inputs)
        self.method = method

    def pull_back(self, ys: Tensor, grad_ys: Tensor) -> list[Tensor]:
        """From the last observation to the first: jump, then solve to the one before."""
        a = torch.zeros_like(ys[0])
        a_theta = ys.new_zeros(sum(real_view(x).numel() for x in self.inputs.sources))
        scale = float(ys.nan_to_num(0.0).abs().max()) if ys.numel() else 0.0
        for index in range(len(ys) - 1, 0, -1):
            a = a + torch.where(ys[index].isnan(), 0.0, grad_ys[index])  # the jump; nothing where not reached
            y, intervals = ys[index], intervals_before(index, ys, self.problem)
            # The earliest has all the samples that move.
            if not intervals or not bool(intervals[-1].part(a).any()):
                continue
            for interval in intervals:
                arrived, back, share = self._back_over(interval, interval.part(y), interval.part(a))
                y, a, a_theta = interval.merge(y, arrived), interval.merge(a, back), a_theta + share
            self._compare(intervals[-1], intervals[-1].part(y), intervals[-1].part(ys[index - 1]), scale)
        return [a + grad_ys[0], *unpack(a_theta, self.inputs.sources)]

    def _back_over(self, interval: Interval, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[y, a, a_θ] from the interval's end to its start, a_θ counted from zero.

        The adjoint is linear in a: it is solved for a of size one, so that the gradient does not depend on the scale
        of the loss through the absolute tolerance.
        """
        size = float(a.abs().max())
        parameters = sum(real_view(x).numel() for x in self.inputs.sources)
        problem = self._adjoint_problem(interval, y, parameters)
        count = self.inputs.field.evaluations
        result = shared.integrate(problem, torch.cat([y.reshape(-1), a.reshape(-1) / size, y.new_zeros(parameters)]))
        self.stats.evaluations_backward += self.inputs.field.evaluations - count
        if result.status is not Status.SUCCESS:
            raise GradientError(
                f"Backsolve: integrating backwards from t = {interval.t1:.6g} to t = {interval.t0:.6g} failed: "
                f"{result.status.message}. The system cannot be run backwards there; use gradient='checkpointed'"
            )
        arrived, back, share = result.y_end.split([y.numel(), y.numel(), parameters])
        return arrived.view_as(y), back.view_as(y) * size, share * size

    def _adjoint_problem(self, interval: Interval, y: Tensor, parameters: int) -> Problem:
        """The augmented initial value problem, on one flat buffer [y, a, a_θ]."""
        size = y.numel()
        with torch.enable_grad():  # picking rows of the args must stay connected to them
            field = interval.field(self.inputs.field)

        def augmented(clock: Tensor, z: Tensor) -> Tensor:
            with torch.enable_grad():
                y_t = z[:size].detach().view_as(y).requires_grad_()
                slope = interval.slope(field, clock, y_t)
                sources = [y_t, *self.inputs.sources]
                # The adjoint is the direction: one product gives −aᵀ ∂f/∂y and −aᵀ ∂f/∂θ.
                direction = -z[size : 2 * size].view_as(y)
                grads: Sequence[Tensor | None] = [None] * len(sources)
                if slope.requires_grad:
                    grads = torch.autograd.grad(slope, sources, direction, allow_unused=True, retain_graph=True)
            rest = [
                real_view(torch.zeros_like(x) if g is None else g).to(z.dtype)
                for g, x in zip(grads, sources, strict=True)
            ]
            return torch.cat([slope.detach().reshape(-1), *rest])

        layout = Layout.of(torch.empty(2 * size + parameters, dtype=y.dtype, device=y.device))
        return Problem(
            VectorField(augmented, layout),
            interval.clock,
            self.method.back_solver(self.problem),
            interval.paced(self._controller(y, parameters)),
            step_ts=interval.stops(self.problem.step_ts),
            jump_ts=interval.stops(self.problem.jump_ts),
            max_steps=self.problem.max_steps,
        )

    def _controller(self, y: Tensor, parameters: int) -> Controller:
        """That of the way back, its tolerances laid out over [y, a, a_θ], its norm the seminorm."""
        controller = self.method.back_controller(self.problem)
        if not isinstance(controller, PID):
            return controller
        counted = 2 * y.numel() if self.method.seminorm else 2 * y.numel() + parameters

        def norm(x: Tensor) -> Tensor:
            return x[:counted].square().mean().sqrt()

        def over(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.cat([value.expand(y.shape).reshape(-1)] * 2 + [value.min().expand(parameters)])

        return replace(controller, rtol=over(controller.rtol), atol=over(controller.atol), norm=norm)

    def _compare(self, interval: Interval, arrived: Tensor, stored: Tensor, scale: float) -> None:
        """The y that arrives at the earlier observation against the stored one."""
        if self.method.check == "off" or not arrived.numel():
            return
        miss = float((arrived - stored).square().mean().sqrt()) / max(scale, torch.finfo(stored.dtype).tiny)
        refuse_or_warn(self.method.check, miss, interval.t0, interval.t1)


def refuse_or_warn(check: str, miss: float, t0: float, t1: float) -> None:
    """What `Backsolve.check` says of a y that misses the stored one by `miss` of the trajectory's scale."""
    if miss <= WARN_ABOVE:
        return
    text = (
        f"Backsolve: y integrated backwards from t = {t1:.6g} misses the stored y at t = {t0:.6g} by {miss:.2g} of the "
        f"trajectory's scale; the gradient is not to be trusted. The system contracts or is stiff, or the tolerances are "
        f"too loose: use gradient='checkpointed', more observation times, or tighter rtol and atol"
    )
    if check == "raise" and not miss <= RAISE_ABOVE:
        raise GradientError(text)
    warnings.warn(text, stacklevel=3)
