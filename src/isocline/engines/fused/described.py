"""Solves on the machine from tensors and a text, which says all else: the tile program, the solver, the controller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from isocline.control import PID, Controller, FixedStep
from isocline.engines.eager.diagnosis import diagnose_rows
from isocline.engines.eager.problem import Problem, Trajectory
from isocline.engines.fused.lanes import CannotFuseError
from isocline.engines.fused.plan import Plan
from isocline.engines.fused.played import Played
from isocline.engines.fused.prepare import Prepared
from isocline.engines.fused.program import Instruction, Operand, Program
from isocline.engines.fused.solve import Run, refusal
from isocline.engines.fused.traced import Traced
from isocline.field import Layout, VectorField
from isocline.solution import Solution, SolveError, failed
from isocline.solvers import Solver, snake_case
from isocline.solvers.runge_kutta import RungeKutta
from isocline.times import Times


# ---- what is solved, as a text ------------------------------------------------------------------------------------------
@dataclass
class Described:
    """What an operator solves, beside its tensors.

    Attributes:
        program: the field's.
        further: how many tensors with a row for each sample it is handed.
        solver, controller: resolved.
        step_ts: times stepped to.
        max_steps: attempted steps of each sample.
        throw: raise `SolveError` where a sample does not reach its end.
    """

    program: Program
    further: int
    solver: RungeKutta
    controller: Controller
    step_ts: list[float]
    max_steps: int
    throw: bool

    def text(self) -> str:
        """As JSON.

        Raises:
            CannotFuseError: for a setting that is no number.
        """
        code = [
            [
                one.op,
                one.out,
                one.count,
                [[o.kind, o.at, o.leaf, o.value] for o in one.operands],
                one.leaf,
                one.width,
                one.rows,
            ]
            for one in self.program.code
        ]
        program = {"inputs": self.program.inputs, "rows": self.program.rows, "code": code}
        program |= {"outputs": self.program.outputs, "leaves": self.program.leaves}
        parts = {
            "program": program,
            "solver": [snake_case(type(self.solver).__name__), _settings(self.solver)],
            "controller": [type(self.controller).__name__, asdict(self.controller)],
        }
        rest = {name: getattr(self, name) for name in ("further", "step_ts", "max_steps", "throw")}
        try:
            return json.dumps(parts | rest)
        except TypeError as error:
            raise CannotFuseError(f"engine='fused' in a graph: a setting is no number ({error})") from error


def _settings(solver: RungeKutta) -> dict[str, Any]:
    return {one.name: getattr(solver, one.name) for one in fields(solver) if one.init}


@lru_cache(maxsize=256)
def described(what: str) -> tuple[Described, Traced]:
    """From the text, and the program as the machine reads it; both are made once."""
    parts = json.loads(what)
    given = parts["program"]
    program = Program([tuple(x) for x in given["inputs"]], given["rows"], leaves=given["leaves"])
    program.outputs = [(name, tuple(rows)) for name, rows in given["outputs"]]
    program.code = [
        Instruction(op, out, count, tuple(Operand(*o) for o in operands), leaf, width, tuple(rows))
        for op, out, count, operands, leaf, width, rows in given["code"]
    ]
    (name, settings), (kind, numbers) = parts["solver"], parts["controller"]
    solver: Any = Solver.registry[name](**settings)
    controller = {"PID": PID, "FixedStep": FixedStep}[kind](**numbers)
    rest = {name: parts[name] for name in ("further", "step_ts", "max_steps", "throw")}
    traced = Traced(program, torch.fx.GraphModule({}, torch.fx.Graph()), torch.float64)
    return Described(program, solver=solver, controller=controller, **rest), traced


class _Holder(bytearray):
    """The memory of a token: the run whose tape it stands for lives as long as it does."""

    run: Run


TAPES: WeakValueDictionary[int, _Holder] = WeakValueDictionary()  # by the token's address


def _token(run: Run | None) -> Tensor:
    holder = _Holder(8)
    token = torch.frombuffer(holder, dtype=torch.int64)
    if run is not None:
        holder.run = run
        TAPES[token.data_ptr()] = holder
    return token


def _run(y0: Tensor, ts: Tensor, further: Sequence[Tensor], leaves: Sequence[Tensor], what: str) -> tuple[Run, Tensor]:
    told, traced = described(what)
    layout = Layout.of(y0, per_sample=True)
    field = VectorField(Played(told.program, told.further), layout, (*further, *leaves))
    field.batch_args = frozenset(range(told.further))
    plain = Times.of(ts.detach(), layout).plain
    problem = Problem(field, plain, told.solver, told.controller, step_ts=told.step_ts, max_steps=told.max_steps)
    why = refusal(problem)
    if why is not None:
        raise CannotFuseError(f"the fused engine cannot take this problem: {why}")
    flat = layout.flatten(y0.detach()).contiguous()
    return Run(
        Plan(problem, traced, flat.dtype), lambda: problem, flat, Prepared(traced, list(further), list(leaves))
    ), flat


def solve(
    y0: Tensor, ts: Tensor, further: Sequence[Tensor], leaves: Sequence[Tensor], what: str, tape: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `operators.tile_solve`."""
    run, flat = _run(y0, ts, further, leaves, what)
    ys = run.solve(want_tape=tape)
    trajectory = run.trajectory(ys)
    shaped = ys.reshape(len(ys), *y0.shape)
    counts, status = run.counts, trajectory.status
    if bool(failed(status).any()):
        status = _failed(run, trajectory, ts, flat, shaped, described(what)[0].throw)
    return (
        shaped,
        torch.stack([status, counts.accepted, counts.rejected, counts.evaluations]),
        _token(run if tape else None),
    )


def _failed(run: Run, trajectory: Trajectory, ts: Tensor, flat: Tensor, ys: Tensor, throw: bool) -> Tensor:
    status, message = diagnose_rows(run.problem, trajectory, flat)
    if throw:
        raise SolveError(message, status, Solution(ts, ys, trajectory.stats, status, message))
    return status


def pull_back(
    cotangents: Tensor,
    y0: Tensor,
    ts: Tensor,
    further: Sequence[Tensor],
    leaves: Sequence[Tensor],
    token: Tensor,
    what: str,
) -> list[Tensor]:
    """As `operators.tile_pull_back`."""
    holder = TAPES.get(token.data_ptr())
    if holder is None:
        run, _ = _run(y0, ts, further, leaves, what)
        run.solve(want_tape=True)
    else:
        run = holder.run
    found = zip(run.pull_back(cotangents.reshape(*cotangents.shape[:2], -1)), [y0, *further, *leaves], strict=True)
    return [grad.reshape(x.shape).to(x.dtype) for grad, x in found]
