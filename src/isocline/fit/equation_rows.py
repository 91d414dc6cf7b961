"""Many fits of the same equations in one batch, as of networks; and what a run trains many of at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from isocline.equations.net import Remainder
from isocline.fit.baselines import LinearODE
from isocline.fit.config import Config
from isocline.fit.guess import first_guess, followed_by
from isocline.fit.networks import Field, Networks
from isocline.fit.physics import PerSample, Physics, model_of
from isocline.fit.scale import Scales
from isocline.fit.season import Season
from isocline.fit.windows import Record

APART = 0.1  # how far the starts of a batch lie around it: a tenth of what changes the slopes by their size


class EquationRows(Networks):
    """The free numbers of many fits of the same equations as rows of a matrix: [parameters | weights of the networks].

    A parameter of a row is first + size · entry, in its unbounded coordinate: with a record, `first` meets its smoothed
    slopes best, and an entry of one changes them by about their size; else they are 0 and 1.

    Args:
        model: the equations; with a record its parameters and the sizes of its networks are set.
        record: of the training part.
        seed: of the first guesses.

    Attributes:
        Those of `Networks`.
    """

    season = None  # equations say it themselves

    def __init__(self, model: Physics, record: Record | None = None, seed: int = 0) -> None:
        self.model, equations = model, model.equations
        self.dim, self.hidden = len(equations.states), tuple[int, ...]()
        self.count = len(equations.free)
        self.first = torch.zeros(self.count, dtype=torch.float64)
        self.unit = torch.ones(self.count, dtype=torch.float64)
        if record is not None:
            self.first, self.unit = first_guess(model, record, seed)
        self.weights = [p for net in equations.remainders.values() for p in net.mlp.parameters()]
        self.shapes: list[tuple[int, ...]] = [(self.count,), *(tuple(p.shape) for p in self.weights)]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.size = sum(self.sizes)
        self.shrunk = torch.ones(self.size, dtype=torch.float64)
        self.shrunk[: self.count] = 0.0
        self.field, self.takes = PerSample(model), model.takes

    def begin(self, seeds: Sequence[int]) -> Tensor:
        """(M, size): near the first guess, those of the first seed at it; networks with weights of their own."""
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            entries = APART * torch.randn(self.count, generator=generator, dtype=torch.float64)
            row = [entries if seed != seeds[0] else torch.zeros_like(entries)]
            for i, net in enumerate(self.model.equations.system.nets.values()):
                mlp = Remainder(net.inputs, net.width, net.depth, net.activation, 1000 * seed + i).mlp
                row += [p.detach().flatten() for p in mlp.parameters()]
            rows.append(torch.cat(row))
        return torch.stack(rows)

    def parts(self, theta: Tensor) -> list[Tensor]:
        """(B, size) as parameters (B, P) in unbounded coordinates, then weights and biases."""
        raw, *weights = [
            p.reshape(*theta.shape[:-1], *shape)
            for p, shape in zip(theta.split(self.sizes, -1), self.shapes, strict=True)
        ]
        return [self.first + self.unit * raw, *weights]

    def handed(self, theta: Tensor) -> tuple[Tensor, ...]:
        """Rows (B, size) as `field` takes them: in parts."""
        return tuple(self.parts(theta))

    def slopes_and_back(
        self, theta: Tensor, y: Tensor, given: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """dx/dt (M, R, dim) of every row at states of its own (M, R, dim), driven by what is given there (M, R, …), and what
        takes their cotangents back to θ (M, size)."""
        driven = [given] if given is not None and self.takes else []
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            slopes = self.field(y.new_zeros(()), y, *driven, *(p.unsqueeze(1) for p in self.parts(theta)))

        def back(g: Tensor) -> Tensor:
            # Of a sum: handed cotangents, PyTorch loads a computer algebra to look at their sizes.
            with torch.enable_grad():
                return torch.autograd.grad((slopes * g).sum(), theta, materialize_grads=True)[0]

        return slopes.detach(), back

    def module(self, theta: Tensor) -> Physics:
        """One row (size,) as a module."""
        found = copy.deepcopy(self.model)
        raw, *weights = self.parts(theta[None])
        with torch.no_grad():
            if found.equations.raw is not None:
                found.equations.raw.copy_(raw[0])
            own = [p for net in found.equations.remainders.values() for p in net.mlp.parameters()]
            for p, values in zip(own, weights, strict=True):
                p.copy_(values[0])
        return found

    def followed(self, record: Record) -> Record:
        """A record with hidden states as the equations have them with the first guess of their parameters."""
        return followed_by(self.model, record)

    def plain(self, theta: Tensor) -> tuple[EquationRows, Tensor]:
        """The layout that needs no record, and rows (M, size) as it has them."""
        return EquationRows(self.model), torch.cat([p.flatten(1) for p in self.parts(theta)], 1)


# ---- of a run ---------------------------------------------------------------------------------------------------------
def networks_of(config: Config, scales: Scales, record: Record, period: float | None = None) -> Networks:
    """What a run trains many of at once; networks with a clock of this period (table's unit), or without any."""
    if not config.equations:
        return Networks(
            record.y[0].shape[1], config.hidden, len(config.inputs), Season(period, scales.tau) if period else None
        )
    model = model_of(config, scales)
    assert isinstance(model, Physics)
    return EquationRows(model, record, config.seed)


def layout_of(model: nn.Module, config: Config) -> Networks:
    """Of the members that a run has kept beside its model."""
    if isinstance(model, Physics):
        return EquationRows(model)
    season = model.season if isinstance(model, Field) else None
    return Networks(len(config.every_state), config.hidden, len(config.inputs), season)


def guessed(record: Record, networks: Networks) -> Record:
    """A record with first guesses of its hidden states, by the equations, or by the best linear ODE where there are none."""
    if not record.hidden.any():
        return record
    if not isinstance(networks, EquationRows):
        return LinearODE(record).followed(record)
    return networks.followed(record)
