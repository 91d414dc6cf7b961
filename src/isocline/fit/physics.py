"""Equations in a run: the field they make in scaled coordinates, and what a run cannot have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isocline.equations import Equations
from isocline.equations.errors import EquationError
from isocline.equations.evaluate import Jet, NetJet, Value
from isocline.equations.net import Remainder
from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.networks import BOUND, Field
from isocline.fit.reading.roles import Column
from isocline.fit.scale import UNSEEN, Scales, StateScale
from isocline.fit.season import Season


class Physics(nn.Module):
    """Equations in the table's units as a field in scaled coordinates: x = (g(y) − mean)/sd, one unit of time tau.

    Args:
        equations: of y, the table's columns.
        scales: of the run.

    Shapes:
        t anything, x (..., states) -> (..., states); with inputs, or a time in the equations, what `takes` names, by name.

    Example:
        >>> from isocline.fit.scale import StateScale
        >>> scales = Scales((StateScale("log", 0.0, 0.5),), tau=2.0)
        >>> field = Physics(Equations("dx = -k*x", parameters="k = 0.25"), scales)
        >>> field(torch.tensor(0.0), torch.zeros(1, dtype=torch.float64)).item()  # d(log x)/dt · tau / sd
        -1.0
    """

    mean: Tensor
    sd: Tensor
    input_mean: Tensor
    input_sd: Tensor

    def __init__(self, equations: Equations, scales: Scales) -> None:
        super().__init__()
        self.equations, self.tau = equations, scales.tau
        self.logs = tuple(s.kind == "log" for s in scales.states)
        self.register_buffer("mean", torch.tensor([s.mean for s in scales.states], dtype=torch.float64))
        self.register_buffer("sd", torch.tensor([s.sd for s in scales.states], dtype=torch.float64))
        self.register_buffer("input_mean", torch.tensor([s.mean for s in scales.inputs], dtype=torch.float64))
        self.register_buffer("input_sd", torch.tensor([s.sd for s in scales.inputs], dtype=torch.float64))
        self.takes: tuple[str, ...] = (
            *(["begin"] if equations.system.timed else []),
            *(["u"] if equations.system.inputs else []),
        )

    def unscaled(self, x: Tensor) -> Tensor:
        """y, in the table's units."""
        y = x * self.sd + self.mean
        if not any(self.logs):
            return y
        return torch.stack([y[..., i].exp() if log else y[..., i] for i, log in enumerate(self.logs)], -1)

    def scaled(self, rates: Tensor, y: Tensor) -> Tensor:
        """dx/dt of dy/dt at y."""
        if any(self.logs):
            rates = torch.stack(
                [rates[..., i] / y[..., i] if log else rates[..., i] for i, log in enumerate(self.logs)], -1
            )
        return rates * self.tau / self.sd

    def driven(self, t: Tensor, given: dict[str, Tensor] | None) -> tuple[Tensor, Tensor | None]:
        """The table's time, and inputs in the table's units, of what the field is given."""
        if not given:
            return t, None
        u = given["u"] * self.input_sd + self.input_mean if "u" in given else None
        return (given["begin"] + t * self.tau if "begin" in given else t), u

    def forward(self, t: Tensor, x: Tensor, given: dict[str, Tensor] | None = None) -> Tensor:
        """dx/dt in scaled units."""
        y = self.unscaled(x)
        t, u = self.driven(t, given)
        return self.scaled(self.equations(t, y, *([] if u is None else [u])), y)


class PerSample:
    """dx/dt with parameters and networks of each sample, of operations that the fused engine knows."""

    def __init__(self, model: Physics) -> None:
        self.model = model
        nets = model.equations.remainders.items()
        self.sizes = {name: len(list(net.mlp.parameters())) for name, net in nets}
        self.takes = model.takes

    def __call__(self, t: Tensor, x: Tensor, *args: Any) -> Tensor:
        model, equations = self.model, self.model.equations
        given, raw, *weights = args if self.takes else (None, *args)
        t, u = model.driven(t, given)
        y = model.unscaled(x.clamp(-BOUND, BOUND))
        jets: dict[str, Jet] = {p.name: (p.natural(raw[..., i]), None) for i, p in enumerate(equations.free)}
        jets |= {p.name: (p.begin, None) for p in equations.fixed}
        nets: dict[str, NetJet] = {}
        first = 0
        for name, net in equations.remainders.items():
            own = weights[first : first + self.sizes[name]]
            nets[name] = lambda parts, net=net, own=own: (_value(net, parts, own, y), None)
            first += self.sizes[name]
        rates = equations.rates(equations.evaluation(t, y, u, parameters=jets, nets=nets))
        return model.scaled(torch.stack([full(v, y) for v, _ in rates], -1), y)


def full(value: Value, y: Tensor) -> Tensor:
    """A number for every sample, by no operation that names their count: one program of the fused engine serves all."""
    return value if isinstance(value, Tensor) and value.shape == y.shape[:-1] else y[..., 0] * 0.0 + value


def _value(net: Remainder, parts: Sequence[Jet], weights: Sequence[Tensor], y: Tensor) -> Tensor:
    """The number that a network of each sample gives: products and sums, or matrix products of many rows of one."""
    x = (torch.stack([full(v, y) for v, _ in parts], -1) - net.center) / net.spread
    weights = list(weights)
    for layer in net.mlp.layers:
        if isinstance(layer, nn.Linear):
            weight, bias = weights.pop(0), weights.pop(0)
            rows = weight.dim() == 4  # (M, 1, n, m)
            x = (x @ weight.squeeze(1).mT if rows else (weight * x[..., None, :]).sum(-1)) + bias
        else:
            x = layer(x)
    return net.gain * x[..., 0]


# ---- of a run ---------------------------------------------------------------------------------------------------------
def equations_of(config: Config) -> Equations:
    """The equations of a run.

    Raises:
        UserError: with the line and the character, or naming what a run cannot have.
    """
    headers = [*config.every_state, *config.inputs]
    columns = [Column.of(header).name for header in headers]
    if len(set(columns)) < len(columns):
        columns = headers
    states, inputs = columns[: len(config.every_state)], columns[len(config.every_state) :]
    try:
        equations = Equations("\n".join(config.equations), states=states, inputs=inputs, parameters=config.parameters)
    except EquationError as error:
        hint = "; of what was not measured say --hidden-states NAME" if " is no state" in error.message else ""
        raise UserError(
            str(EquationError(error.what, error.text, error.at, error.end, error.message + hint))
        ) from error
    except ValueError as error:
        raise UserError(str(error)) from error
    system = equations.system
    if system.initial:
        raise UserError(
            f"equation: {next(iter(system.initial))}(0) = …: a run fits where each series starts; leave the line out "
            f"(in Python, isocline.equations.estimate takes it)"
        )
    for what, given in (("f", system.shares), ("lag", system.lags)):
        if given:
            raise UserError(
                f"equation: {what}({next(iter(given))}) = …: beside net(…) a dose arrives whole and at once; leave the line out"
            )
    if not equations.free and not equations.remainders:
        raise UserError("equation: nothing to fit: all parameters are fixed, and there is no net(…)")
    return equations


def settings_of(config: Config) -> Config:
    """The settings of a run: of equations without networks no penalty is to be chosen, and slopes give a guess at once.

    Raises:
        UserError: as for `equations_of`, and for settings that equations leave without a meaning.
    """
    if not config.equations:
        if config.parameters:
            raise UserError("parameter: of which equations? give --equation too, for example 'dx = -k*x'")
        return config
    if "hidden" in config.model_fields_set:
        raise UserError("hidden: the equations say how wide their networks are, as in net(x, width=16, depth=2)")
    if equations_of(config).remainders:
        return config
    if "penalty" in config.model_fields_set:
        raise UserError("penalty: there is no net(…) in the equations whose weights it could hold small; leave it out")
    return config.model_copy(
        update={"penalty": (0.0,)} | ({} if "matching" in config.model_fields_set else {"matching": 50})
    )


def scales_of(scales: Scales, config: Config) -> Scales:
    """The scales of a run: a hidden state of equations, in the table's units, is taken to be as large as the measured ones."""
    count = len(config.hidden_states)
    if not config.equations or not count:
        return scales
    measured = scales.states[:-count]
    if any(s.kind == "log" for s in measured):
        raise UserError("hidden_states: beside states on a logarithmic scale; with equations give --scale linear")
    size = StateScale("linear", *(sum(getattr(s, name) for s in measured) / len(measured) for name in ("mean", "sd")))
    hidden = (
        s if s != UNSEEN else size for s in scales.states[-count:]
    )  # one that is given doses is as large as they are
    return Scales((*measured, *hidden), scales.tau, scales.inputs)


def model_of(config: Config, scales: Scales, season: Season | None = None) -> nn.Module:
    """The field of a run before training: the equations, or a network where there are none, which a season may drive."""
    if config.equations:
        return Physics(equations_of(config), scales)
    return Field(len(config.every_state), config.hidden, inputs=len(config.inputs), season=season)
