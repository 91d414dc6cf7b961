"""Forward sensitivities: the state and its derivatives by parameters and starting states, in one solve.

With S = ∂y/∂(θ, y₀, w), dS/dt = ∂f/∂y · S + ∂f/∂θ: the variational equations (Hairer, Nørsett & Wanner I, I.14), written
with the expressions' own derivatives. They are one more field of plain tensor operations, so the fused engine takes them, and
the error control sees the sensitivities too: standard errors are as good as the solution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isocline.equations.evaluate import Evaluation, Jet, NetJet
from isocline.equations.module import Equations
from isocline.equations.regimen import Arrival


class Sensitivities(nn.Module):
    """The field of (y, S), flat: (…, n + n·P).

    The P directions are the free parameters in their unbounded coordinates, then as many numbers of the starting state as
    are wanted, then, with `weights`, the networks' weights.

    Args:
        field: the equations.
        initial: directions of the starting state.
        weights: whether the networks' weights are directions.
        more: directions behind all others, in which no parameter goes.

    Example:
        >>> import isocline
        >>> field = Equations("dx = -k*x", parameters="k = 0.5")
        >>> both = Sensitivities(field, initial=1)
        >>> y0 = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)  # x, dx/dk, dx/dx(0)
        >>> [round(v, 4) for v in isocline.solve(both, y0, [0.0, 2.0]).ys[-1].tolist()]
        [0.3679, -0.7358, 0.3679]
    """

    one_hot: Tensor

    def __init__(self, field: Equations, initial: int = 0, weights: bool = False, more: int = 0) -> None:
        super().__init__()
        self.field, self.initial, self.weights = field, initial, weights
        self.first: dict[str, int] = {}
        at = len(field.free) + initial
        for name, net in field.remainders.items():
            self.first[name] = at
            at += net.count if weights else 0
        self.directions = at + more
        self.register_buffer("one_hot", torch.eye(self.directions, dtype=torch.float64))

    def with_directions(self, more: int) -> Sensitivities:
        """The same with so many directions more, for all numbers of a state."""
        return Sensitivities(self.field, self.initial, self.weights, more)

    def parameters_of(self, like: Tensor) -> dict[str, Jet]:
        """The parameters with their directions."""
        field = self.field
        jets = field.parameter_jets(like)
        if field.raw is None:
            return jets
        raw = field.raw.to(like.dtype)
        for i, p in enumerate(field.free):
            jets[p.name] = jets[p.name][0], p.slope(raw[i]) * self.one_hot[i].to(like.dtype)
        return jets

    def nets_of(self, y: Tensor) -> dict[str, NetJet]:
        """The networks with their directions."""

        def jet_of(name: str) -> NetJet:
            net, first = self.field.remainders[name], self.first[name] if self.weights else None
            return lambda parts: net.jet(parts, y.shape[:-1], y, first, self.directions)

        return {name: jet_of(name) for name in self.field.remainders}

    def evaluation(
        self,
        t: Tensor | None,
        y: Tensor,
        s: Tensor | None,
        u: Any,
        covariates: Any,
        parameters: Mapping[str, Jet] | None = None,
    ) -> Evaluation:
        """What expressions are evaluated with, at states (…, n) with sensitivities (…, n, P); None: the field's parameters."""
        tangents = None if s is None else list(s.unbind(-2))
        parameters = self.parameters_of(y) if parameters is None else parameters
        return self.field.evaluation(t, y, u, covariates, tangents, parameters, self.nets_of(y))

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """(…, n + n·P) -> y (…, n), S (…, n, P)."""
        n = len(self.field.states)
        return flat[..., :n], flat[..., n:].reshape(*flat.shape[:-1], n, self.directions)

    def join(self, y: Tensor, s: Tensor) -> Tensor:
        """The other way round."""
        return torch.cat([y, s.reshape(*y.shape[:-1], y.shape[-1] * self.directions)], -1)

    def full(self, jets: list[Jet], y: Tensor) -> tuple[Tensor, Tensor]:
        """Values (…, m) and derivatives (…, m, P) of jets."""
        lead = y.shape[:-1]
        zero = torch.zeros((), dtype=y.dtype, device=y.device)
        values = [v.expand(lead) if isinstance(v, Tensor) else (zero + v).expand(lead) for v, _ in jets]
        slopes = [(zero if d is None else d).expand(*lead, self.directions) for _, d in jets]
        return torch.stack(values, -1), torch.stack(slopes, -2)

    def arrival(self, y0: Tensor, covariates: Any, parameters: Mapping[str, Jet] | None = None) -> Arrival:
        """How much of a dose into each state arrives, and when, for starts (R, n)."""
        evaluation = self.evaluation(None, y0, None, None, covariates, parameters)
        found = []
        for of, default in ((self.field.shares, torch.ones_like(y0)), (self.field.lags, torch.zeros_like(y0))):
            slopes = torch.zeros(*y0.shape, self.directions, dtype=y0.dtype)
            with torch.no_grad():
                given = of(evaluation)
                if given:
                    order = [self.field.states.index(name) for name in given]
                    default[:, order], slopes[:, order] = self.full(list(given.values()), y0)
            found += [default, slopes]
        return Arrival(*found)

    def forward(self, t: Tensor, flat: Tensor, *args: Any) -> Tensor:
        """(dy/dt, dS/dt)."""
        y, s = self.split(flat)
        u, covariates = self.field.split(args)
        return self.join(*self.full(self.field.rates(self.evaluation(t, y, s, u, covariates)), y))
