"""A run's model as one graph: states at given times by fixed steps, in the units of the table."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isocline.fit.fitted import Fitted
from isocline.fit.scale import Scales, StateScale
from isocline.solvers.tableau import Tableau

KNOWN = ("begin", "u")  # what of a `Drive` a graph can be given
CLOSE = 1e-6  # standard deviations: by how much a rollout may miss the path from one time to the next
MOST = 64  # steps between two times
STARTS = 200  # states from which that is tried
BATCH, TIMES = "batch", "times"
ARITHMETIC = tuple(getattr(torch.ops.aten, name).Tensor for name in ("add", "sub", "mul", "div"))


class Step(nn.Module):
    """One step of an explicit Runge–Kutta method, of several equal ones from a time to the next; states and inputs scaled.

    Args:
        field: f(t, x), or f(t, x, given) with what its attribute `takes` names.
        tau: the table's time that is one unit of the field's.
        tableau: of the method.
        steps: between two times.
        hold: of inputs between them, "zoh" or "linear".

    Shapes:
        x (batch, states), t and t1 0-d in the table's unit, share 0-d, of the way between them that is done, u and u1
        (batch, inputs) -> (batch, states).
    """

    def __init__(self, field: nn.Module, tau: float, tableau: Tableau, steps: int, hold: str) -> None:
        super().__init__()
        self.field, self.tau, self.tableau, self.steps, self.hold = field, tau, tableau, steps, hold
        self.takes: tuple[str, ...] = getattr(field, "takes", ())

    def forward(
        self, x: Tensor, t: Tensor, t1: Tensor, share: Tensor, u: Tensor | None = None, u1: Tensor | None = None
    ) -> Tensor:
        """The state behind the step."""
        length = (t1 - t) / self.tau
        ks: list[Tensor] = []
        for c, row in zip(self.tableau.c, ((), *self.tableau.a), strict=True):
            now = share + c / self.steps
            given = {"begin": t} if "begin" in self.takes else {}
            if u is not None and u1 is not None:
                given["u"] = u if self.hold == "zoh" else u + now * (u1 - u)
            at = length * now, advanced(x, row, ks)
            ks.append(length / self.steps * (self.field(*at, given) if given else self.field(*at)))
        return advanced(x, self.tableau.b, ks)


def advanced(x: Tensor, weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor:
    """x + Σ w_j k_j."""
    for weight, k in zip(weights, ks, strict=True):
        x = x + weight * k if weight else x
    return x


class Rollout(nn.Module):
    """States at any increasing times from states at the first one, in the table's units.

    Args:
        step: a `Step`, or the graph of one.
        steps: between two times.
        scales: of the run.

    Shapes:
        y0 (batch, states), ts (times,), u (times, batch, inputs), where the field has inputs: held as "zoh" each counts from
        its time on -> (times, batch, states), the first of them y0.
    """

    shares: Tensor

    def __init__(self, step: nn.Module, steps: int, scales: Scales) -> None:
        super().__init__()
        self.step = step
        self.states, self.inputs = _Scaled(scales.states), _Scaled(scales.inputs)
        self.register_buffer("shares", torch.arange(steps, dtype=torch.float64) / steps)

    def forward(self, y0: Tensor, ts: Tensor, u: Tensor | None = None) -> Tensor:
        """The states."""
        held = {**dict(self.step.named_parameters()), **dict(self.step.named_buffers())}
        inputs = () if u is None else (self.inputs.scaled(u),)
        count = 1 + len(inputs)  # of what is known at each time: itself and the inputs

        def stepped(x: Tensor, share: Tensor, *known: Tensor) -> tuple[Tensor, Tensor]:
            (t, *before), (t1, *after) = known[:count], known[count : 2 * count]
            tensors = dict(zip(held, known[2 * count :], strict=True))
            return torch.func.functional_call(self.step, tensors, (x, t, t1, share, *before, *after)), share.clone()

        def between(x: Tensor, *known: Tensor) -> tuple[Tensor, ...]:
            shares, known = known[2 * count], (*known[: 2 * count], *known[2 * count + 1 :])
            x1, _ = scan(stepped, (x,), (shares,), known)
            return (x1, *(value.clone() for value in known[count : 2 * count]), x1.clone())

        first = (self.states.scaled(y0), ts[0], *(v[0] for v in inputs))
        # The first interval is from the first time to itself: no slice of times, whose length a graph would then fix.
        *_, xs = scan(between, first, (ts, *inputs), (self.shares, *held.values()))
        return self.states.unscaled(xs)


def scan(
    function: Callable[..., tuple[Tensor, ...]],
    begin: Sequence[Tensor],
    over: Sequence[Tensor],
    known: Sequence[Tensor],
) -> list[Tensor]:
    """A loop that stays one in a graph: function(*carried, *rows of `over`, *known) -> (*carried, *rows to stack).

    The operator itself: `torch._higher_order_ops.scan` would first have dynamo read the function.
    """
    from torch._higher_order_ops.scan import scan_op

    return list(scan_op(function, list(begin), list(over), tuple(known)))


class _Scaled(nn.Module):
    """Scales as operations on tensors."""

    mean: Tensor
    sd: Tensor

    def __init__(self, scales: Sequence[StateScale]) -> None:
        super().__init__()
        self.logs = [s.kind == "log" for s in scales]
        self.register_buffer("mean", torch.tensor([s.mean for s in scales], dtype=torch.float64))
        self.register_buffer("sd", torch.tensor([s.sd for s in scales], dtype=torch.float64))

    def scaled(self, y: Tensor) -> Tensor:
        return (self._each(y, torch.log) - self.mean) / self.sd

    def unscaled(self, x: Tensor) -> Tensor:
        return self._each(x * self.sd + self.mean, torch.exp)

    def _each(self, y: Tensor, function: Any) -> Tensor:
        if not any(self.logs):
            return y
        return torch.stack([function(y[..., i]) if log else y[..., i] for i, log in enumerate(self.logs)], -1)


# ---- of a run ---------------------------------------------------------------------------------------------------------
def step_of(fitted: Fitted, report: dict[str, Any], tableau: Tableau) -> tuple[Step, float, float]:
    """A step of the model, so many between two times as the record's spacing needs; by how much they miss within one
    spacing, and that.

    They are doubled until doubling them once more moves no state of the fitted path by `CLOSE` within one spacing.

    Raises:
        ValueError: for a model that is given what a graph cannot hold.
    """
    config, scales = fitted.config, fitted.scales
    field = copy.deepcopy(fitted.field).requires_grad_(False)  # a scan would have its derivative traced, too
    unknown = [name for name in getattr(field, "takes", ()) if name not in KNOWN]
    if unknown:
        raise ValueError(f"its field depends on {', '.join(unknown)}, which a rollout is not given")
    if config.inputs and config.hold == "cubic":
        raise ValueError(
            "its inputs are held as cubics, which rest on more rows than those on both sides; fit with --hold linear, or "
            "forecast with isocline predict"
        )
    x, t, spacing = _starts(report, scales)
    u = torch.zeros(len(x), len(config.inputs), dtype=torch.float64)
    driven = (u, u) if config.inputs else ()
    ends: list[Tensor] = []
    while True:
        steps = 2 ** len(ends)
        step = Step(field, scales.tau, tableau, steps, config.hold)
        end = x
        with torch.no_grad():
            for i in range(steps):
                end = step(end, t, t + spacing, torch.tensor(i / steps, dtype=torch.float64), *driven)
        ends.append(end)
        if steps > 1:
            miss = float((ends[-1] - ends[-2]).abs().nan_to_num(torch.inf, torch.inf).max())
            if miss < CLOSE or steps > MOST:
                return Step(field, scales.tau, tableau, steps // 2, config.hold), miss, spacing


def _starts(report: dict[str, Any], scales: Scales) -> tuple[Tensor, Tensor, float]:
    """Scaled states (n, d) of the fitted path, a time among them, and the usual spacing of rows."""
    paths = [path for path in report["model_path"] if path["y"]]
    y = np.concatenate([path["y"] for path in paths])
    y = y[np.unique(np.linspace(0, len(y) - 1, STARTS).round().astype(int))]
    t = float(np.median(np.concatenate([path["t"] for path in paths])))
    spacing = float(np.median(np.concatenate([np.diff(s["t"]) for s in report["series"]])))
    return torch.tensor(scales.scaled(y)), torch.tensor(t, dtype=torch.float64), spacing


def program_of(step: Step, fitted: Fitted) -> torch.export.ExportedProgram:
    """The rollout as a program of PyTorch's own operations, for batches and times of any number."""
    dim, inputs, times = len(fitted.config.every_state), len(fitted.config.inputs), 5
    batch, count = torch.export.Dim(BATCH), torch.export.Dim(TIMES)
    t, x = torch.arange(float(times), dtype=torch.float64), torch.zeros(3, dim, dtype=torch.float64)
    u = (torch.zeros(times, 3, inputs, dtype=torch.float64),) if inputs else ()
    once: dict[str, Tensor] = {"x": x, "t": t[0], "t1": t[1], "share": t[0]} | (
        {"u": u[0][0], "u1": u[0][1]} if u else {}
    )
    with torch.no_grad():
        # First a step alone, whose numbers can then be made tensors.
        sizes = {name: {0: batch} if name in ("x", "u", "u1") else None for name in once}
        one = torch.export.export(step, tuple(once.values()), dynamic_shapes=sizes, strict=False)
        rollout = Rollout(_precise(one.module()), step.steps, fitted.scales)
        sizes = {"y0": {0: batch}, "ts": {0: count}} | ({"u": {0: count, 1: batch}} if u else {})
        program = torch.export.export(rollout, (x, t, *u), dynamic_shapes=sizes, strict=False)
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for told in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
                node.meta.pop(told, None)  # where on whose computer it was made
    return program


def _precise(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The graph with tensors in the place of numbers, which ONNX would round to single precision."""
    for node in list(module.graph.nodes):
        if node.target not in ARITHMETIC:
            continue
        for i, number in enumerate(node.args):
            if isinstance(number, (int, float)):
                name = f"number_{node.name}_{i}"
                module.register_buffer(name, torch.tensor(number, dtype=torch.float64))
                with module.graph.inserting_before(node):
                    node.update_arg(i, module.graph.get_attr(name))
    module.recompile()
    return module
