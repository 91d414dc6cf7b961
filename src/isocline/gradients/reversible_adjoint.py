"""The exact gradient without stored states: each step is undone on the way back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from isocline.engines import eager
from isocline.engines.eager import Problem, Trajectory
from isocline.gradients.backsolve import RAISE_ABOVE, WARN_ABOVE
from isocline.gradients.base import Gradient, GradientError, Inputs
from isocline.gradients.checkpointed import Plan, Record, run_plan
from isocline.solvers import snake_case
from isocline.solvers.memory import visible


@runtime_checkable
class Undoes(Protocol):
    """A solver whose steps can be undone."""

    def undone(self, field: Any, times: Any, scale: float, after: Tensor, paces: Tensor | None = None) -> Tensor:
        """The state at the start of a step from that at its end."""
        ...


@dataclass(frozen=True)
class ReversibleAdjoint(Gradient):
    """Exact like `Backprop`, with memory for one step whatever their number, of solvers whose steps can be undone.

    Those are `ReversibleHeun`, `AsynchronousLeapfrog`, `Reversible` of any explicit method, and the symplectic `SymplecticEuler`, `Leapfrog` and
    `Yoshida4`. The way forward keeps of a step its times alone. The way back undoes the steps from last to first by
    arithmetic, no equation is solved; each is then evaluated again with a graph and differentiated. The states come
    back to rounding times what the undoing amplifies: for `Reversible` 1/λ a step, and more on systems that contract.
    What has come back is compared with y0, and where it misses it the gradient is refused.

    Only where f jumps (`jump_ts`, knots of inputs), the state is kept.

    Second derivatives are right, in the memory of `Backprop`; third ones are refused.

    Source: P. Kidger, J. Foster, X. Li & T. Lyons, NeurIPS 2021; S. McCallum & J. Foster, arXiv:2410.11648 (2024).

    Example:
        >>> import torch, isocline
        >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
        >>> solver = isocline.solvers.Reversible("dopri5")
        >>> sol = isocline.solve(lambda t, y: -y, y0, [0.0, 1.0], solver=solver, gradient="reversible_adjoint")
        >>> sol.ys[-1].sum().backward()
        >>> round(y0.grad.item(), 6)
        0.367879
    """

    def run(self, problem: Problem, y0: Tensor) -> Trajectory:
        if not isinstance(problem.solver, Undoes):
            name = snake_case(type(problem.solver).__name__)
            suggestion = f"Reversible({name!r})" if problem.solver.tableau.explicit else "Reversible('tsit5')"
            raise GradientError(
                f"ReversibleAdjoint: the steps of {name!r} cannot be undone; use solver={suggestion}, 'reversible_heun', "
                f"'leapfrog', or gradient='checkpointed'"
            )
        inputs = Inputs.of(problem, y0)
        if not (y0.requires_grad or inputs.tensors):
            return eager.integrate(problem, y0)
        return run_plan(Plan(problem, inputs, Undone(problem, inputs, y0.detach())), y0)


class Undone(Record):
    """The accepted steps of one solve without their states, which come from that at the end."""

    def __init__(self, problem: Problem, inputs: Inputs, y0: Tensor) -> None:
        super().__init__(None)
        self.solver, self.field, self.y0 = problem.solver, inputs.field, y0
        # At jumps a memory is begun anew: that of the step before does not follow from what comes after.
        self.forgets = problem.solver.remembers and (bool(problem.jump_ts) or problem.row_jump_ts is not None)

    def add(self, step: Any) -> None:
        kept = self.forgets and bool(torch.as_tensor(step.fresh).any())
        self.steps.append(step if kept else step._replace(y=None))

    def end(self, trajectory: Trajectory) -> None:
        self.state = trajectory.y_end if trajectory.state_end is None else trajectory.state_end
        self.scale = float(trajectory.ys.nan_to_num(0.0).abs().max())

    def backwards(self, advance: Any) -> Iterator[tuple[Any, Any]]:
        state = self.state
        for step in reversed(self.steps):
            with torch.no_grad():
                state = step.undo(self.field, self.solver, state)
            part = step.start(state)
            yield step, part
            if step.y is not None:
                fresh = torch.as_tensor(step.fresh).unsqueeze(-1)
                state = step.merge(state, torch.where(fresh, step.y, part))
        self._compare(visible(state, self.y0))

    def _compare(self, arrived: Tensor) -> None:
        """What has come back against y0."""
        miss = float((arrived - self.y0).square().mean().sqrt()) / max(self.scale, torch.finfo(arrived.dtype).tiny)
        if miss <= WARN_ABOVE:
            return
        text = (
            f"ReversibleAdjoint: undoing the steps misses y0 by {miss:.2g} of the trajectory's scale; the gradient is not to "
            f"be trusted. Rounding was amplified: the system contracts, or the steps are too many for this dtype; use "
            f"gradient='checkpointed', a 64-bit state, or fewer steps"
        )
        if not miss <= RAISE_ABOVE:
            raise GradientError(text)
        warnings.warn(text, stacklevel=2)
