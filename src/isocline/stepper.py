"""`Stepper`: a solve taken one accepted step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from isocline.control import Controller
from isocline.engines.eager import Problem
from isocline.engines.eager.dense import dense_path
from isocline.engines.eager.diagnosis import diagnose
from isocline.engines.eager.problem import Failure
from isocline.engines.eager.shared import Loop
from isocline.field import Layout
from isocline.inputs import drive
from isocline.solution import Solution, SolveError, Stats, Status
from isocline.solve import extra_times, resolve_controller, resolve_solver
from isocline.solvers import Solver
from isocline.solvers.additive import for_field
from isocline.solvers.scipy import Scipy


class Stepper:
    """A solve taken one accepted step at a time: for simulations that are looked at, steered or stopped on the way.

    Without gradients; all samples share the steps. Every accepted step is that of `solve` with the same settings, to the bit.

    Args:
        field: as of `solve`.
        y0: as of `solve`.
        t0, t1: where it begins, and where it ends unless `extend` moves that; never stepped beyond.
        solver, controller, args, inputs, rtol, atol, step, max_step, step_ts, jump_ts, max_steps: as of `solve`.
        dense: keep the stages of the last step, for `at`.

    Attributes:
        t: where it is, a float.
        stats: counts so far.

    Raises:
        TypeError, ValueError: as `solve`.
        SolveError: from the step that cannot be taken; `t` and `y` stay what they were.

    Example:
        >>> import torch, isocline
        >>> stepper = isocline.Stepper(lambda t, y: -y, torch.ones(1), 0.0, 5.0, rtol=1e-3)
        >>> for t, y in stepper:
        ...     if y < 0.5:
        ...         break
        >>> bool(stepper.t > 0.69), stepper.done
        (True, False)
    """

    def __init__(
        self,
        field: Callable[..., Any],
        y0: Any,
        t0: float,
        t1: float,
        *,
        solver: Solver | str = "tsit5",
        controller: Controller | None = None,
        args: tuple[Any, ...] = (),
        inputs: Any = None,
        rtol: Any = None,
        atol: Any = None,
        step: float | None = None,
        max_step: float | None = None,
        step_ts: Any = None,
        jump_ts: Any = None,
        max_steps: int = 100_000,
        dense: bool = False,
    ) -> None:
        method = for_field(resolve_solver(solver), field)
        if isinstance(method, Scipy):
            raise ValueError("solver: SciPy's methods take their steps themselves; a Stepper needs one of isocline's")
        self.layout = Layout.of(y0)
        vector_field, kinks = drive(field, inputs, self.layout, args)
        self._settings: dict[str, Any] = {
            "field": vector_field,
            "solver": method,
            "controller": resolve_controller(controller, method, rtol, atol, step, max_step),
            "step_ts": [*extra_times("step_ts", step_ts), *kinks.step_ts],
            "jump_ts": [*extra_times("jump_ts", jump_ts), *kinks.jump_ts],
            "dense": dense,
            "max_steps": max_steps,
        }
        for name, value in (("t0", t0), ("t1", t1)):
            if not math.isfinite(value):
                raise ValueError(f"{name}={value}: expected a finite number; a later end can be set with extend")
        self.t, self._t1, self._sign = float(t0), float(t1), 1.0 if t1 >= t0 else -1.0
        self._y = self._y0 = self.layout.flatten(y0).detach().contiguous()
        method.check(vector_field, torch.tensor(self.t, dtype=torch.float64), self._y)
        self._before = Stats()  # of the loops that were ended
        self._loop: Loop | None = None
        self._begin(None)

    def _begin(self, after: Loop | None) -> None:
        """A loop from here to the end."""
        if self._loop is not None:
            self._before = self.stats
        self._began = self._settings["field"].evaluations
        self._loop = Loop(Problem(ts=[self.t, self._t1], **self._settings), self._y, False, None, after=after)
        self._steps = self._loop.steps()
        self._failed: SolveError | None = None

    def _begin_again(self) -> None:
        """A loop from here to the end, that goes on from the one so far."""
        loop = self._loop
        assert loop is not None
        self._begin(None if loop.stats.accepted == 0 and loop.after is None else loop)

    # ---- where it is ----------------------------------------------------------------------------------------------
    @property
    def y(self) -> Any:
        """The state at `t`, in the structure of `y0`; setting it is `jump`."""
        return self.layout.unflatten(self._y)

    @y.setter
    def y(self, y: Any) -> None:
        self.jump(y)

    @property
    def done(self) -> bool:
        """Whether the end is reached."""
        return self.t == self._t1

    @property
    def step_size(self) -> float:
        """|h| the next step will try; NaN before the first, and of fixed steps."""
        assert self._loop is not None
        return self._loop.clock[1]

    @property
    def stats(self) -> Stats:
        """Counts so far."""
        assert self._loop is not None
        now, before = self._loop.stats, self._before
        workspace = self._loop.workspace
        return Stats(
            accepted=before.accepted + now.accepted,
            rejected=before.rejected + now.rejected,
            evaluations=before.evaluations + self._settings["field"].evaluations - self._began,
            jacobians=0 if workspace is None else workspace.jacobians,
        )

    # ---- going on -------------------------------------------------------------------------------------------------
    def step(self) -> bool:
        """Takes one accepted step; False where the end was reached before.

        Raises:
            SolveError: where none can be taken, and again until `jump` or `extend`; with status, likely cause and state.
        """
        if self._failed is not None:
            raise self._failed
        if self.done:
            return False
        loop = self._loop
        assert loop is not None
        for kept in (loop.trajectory.dense_y, loop.trajectory.dense_hk, loop.trajectory.steps):
            kept.clear()
        try:
            with torch.no_grad():
                next(self._steps)
        except StopIteration as end:
            raise self._failure(end.value) from None
        except BaseException:  # of the field: the step can be tried again
            loop.jumped = True
            self._begin_again()
            raise
        if not bool(loop.y.isfinite().all()):
            raise self._failure(Status.NON_FINITE)
        self.t, self._y = loop.clock[0], loop.y
        return True

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        """(t, y) after every further step, to the end."""
        while self.step():
            yield self.t, self.y

    def jump(self, y: Any = None) -> None:
        """Says that something has changed here: the state, to `y`, or what `field` computes.

        The next step asks `field` anew and begins a solver's memory anew; its length stays.
        """
        assert self._loop is not None
        if y is not None:
            self._y = self.layout.flatten(y, "y").detach().contiguous()
        self._loop.y, self._loop.jumped = self._y, True
        if self._failed is not None:
            self._begin_again()

    def extend(self, t1: float) -> None:
        """Moves the end to `t1`, in the same direction; the next step is as long as it would have been.

        Raises:
            ValueError: where `t1` lies behind `t`.
        """
        if not (float(t1) - self.t) * self._sign > 0:
            raise ValueError(f"t1={t1}: expected a time {'after' if self._sign > 0 else 'before'} t={self.t:g}")
        self._t1 = float(t1)
        self._begin_again()

    def at(self, t: Any) -> Any:
        """The state inside the step just taken, from its interpolant.

        Args:
            t: a number, a 0-d tensor or a vector (M,).

        Raises:
            ValueError: without `dense=True`, before the first step, or for a time outside the last one.
        """
        loop = self._loop
        assert loop is not None
        if not (self._settings["dense"] and loop.trajectory.dense_y):
            raise ValueError("Stepper.at looks into the step just taken: make it with dense=True and take one")
        problem = loop.problem
        solution = Solution(torch.tensor([self.t]), None, self.stats, Status.SUCCESS)
        solution._dense, _ = dense_path(problem, loop.trajectory, self._y)
        return solution.at(t)

    # ---- later ----------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Where it is and how long its steps are, as numbers and tensors: to be saved, and loaded into one made alike."""
        assert self._loop is not None
        leaves: list[Tensor] = torch.utils._pytree.tree_leaves(self.y)
        return {"t": self.t, "t1": self._t1, "y": [leaf.clone() for leaf in leaves], "clock": list(self._loop.clock)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there. The slope is asked anew, and a solver's memory begun anew; all else is as it was."""
        spec = torch.utils._pytree.tree_structure(self.y)
        self.t, self._t1 = float(state["t"]), float(state["t1"])
        y = torch.utils._pytree.tree_unflatten(list(state["y"]), spec)
        self._y = self.layout.flatten(y, "y").detach().contiguous()
        self._loop = None
        self._begin(None)
        clock = state["clock"]
        if clock[1] == clock[1]:
            began = Loop(Problem(ts=[self.t, self._t1], **self._settings), self._y, False, None)
            began.clock, began.jumped = tuple(clock), True
            self._begin(began)

    def _failure(self, status: Status) -> SolveError:
        loop = self._loop
        assert loop is not None
        status, message = diagnose(loop.problem, status, loop.trajectory.failure or Failure(self.t, self._y), self._y0)
        ts = torch.tensor([self.t], dtype=torch.float64)
        partial = Solution(ts, self.layout.unflatten(self._y[None]), self.stats, status, message)
        loop.jumped = True  # the stages are those of the step that failed
        self._failed = SolveError(message, status, partial)
        return self._failed
