"""First guesses of the parameters of equations, from the smoothed record, or where states are hidden from a path."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from isocline.fit.drive import Drive
from isocline.fit.flow import paths, settle
from isocline.fit.hidden import followed
from isocline.fit.physics import PerSample, Physics
from isocline.fit.windows import Record

ROWS = 1000  # of the smoothed record, that the first guess of parameters looks at
TRIES = 6  # first guesses, of which the best goes on
STRETCH, SEARCHES = 500, 40  # rows on which parameters are searched where states are hidden, and steps of the search


def first_guess(model: Physics, record: Record, seed: int) -> tuple[Tensor, Tensor]:
    """Brings networks to the data's size, and parameters to the smoothed slopes by least squares from several starts.

    With hidden states there are no slopes of all: parameters are then those of the best path, again from several starts.

    Returns:
        The parameters (P,) in unbounded coordinates, and by how much of each the slopes change by their size.
    """
    hidden = bool(record.hidden.any())
    if hidden:
        record = searched(model, record, seed)
    x = torch.tensor(np.concatenate([v for v, _ in record.smooth]))
    slopes = torch.tensor(np.concatenate([s for _, s in record.smooth]))
    rows = torch.linspace(0, len(x) - 1, min(ROWS, len(x))).round().long().unique()
    x, slopes, now = x[rows], slopes[rows], torch.zeros((), dtype=torch.float64)
    given = {name: torch.tensor(values)[rows] for name, values in record.given().items()}
    equations, raw = model.equations, model.equations.raw
    with torch.no_grad():
        y = model.unscaled(x)
        rates = slopes / model.tau * model.sd
        rates = torch.stack([rates[:, i] * y[:, i] if log else rates[:, i] for i, log in enumerate(model.logs)], -1)
        t, u = model.driven(now, given)
        equations.adapt(t, y, *([] if u is None or not equations.system.inputs else [u]), slopes=rates)
    if raw is None:
        return torch.zeros(0, dtype=torch.float64), torch.ones(0, dtype=torch.float64)
    from scipy.optimize import least_squares

    def misfit(u: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            raw.copy_(torch.as_tensor(u))
            return (model(now, x, given) - slopes).flatten().nan_to_num(1e3, 1e3, -1e3).clamp(-1e3, 1e3).numpy()

    generator = np.random.default_rng(seed)
    declared = raw.detach().clone().numpy()
    best: tuple[float, np.ndarray] | None = None
    if hidden:
        best = (0.0, declared)
    for k in range(0 if hidden else TRIES):
        start = declared + (generator.standard_normal(len(declared)) if k else 0.0)
        found = least_squares(misfit, start, loss="soft_l1", x_scale="jac", max_nfev=50)
        if best is None or found.cost < best[0]:
            best = (found.cost, found.x)
    assert best is not None
    step = 1e-4 * np.maximum(1.0, np.abs(best[1]))
    change = [misfit(best[1] + h) - misfit(best[1] - h) for h in np.diag(step)]
    reach = np.array([np.sqrt(np.mean(c**2)) for c in change]) / (2 * step)
    misfit(best[1])
    unit = np.minimum(1.0 / np.maximum(reach, 1e-12), np.maximum(1.0, np.abs(best[1])))
    return torch.tensor(best[1]), torch.tensor(unit)


def searched(model: Physics, record: Record, seed: int) -> Record:
    """Gives the model's parameters the values whose path, without networks, best meets a stretch of the record.

    Levenberg-Marquardt over the parameters and the starting state together, all starts in one batch: a parameter is a state
    that does not change.

    Returns:
        The record with hidden states as on such a path.
    """
    bare, raw = Bare(model), model.equations.raw
    count = 0 if raw is None else len(raw)
    if raw is not None:
        windows = record.windows(record.levels - 1)
        longest = int((~windows.ts.isnan()).sum(1).argmax())
        one = windows.pick(torch.tensor([longest]))
        ts, y = one.ts[:, :STRETCH], one.y[:STRETCH]
        generator = torch.Generator().manual_seed(seed)
        tries = raw.detach() + torch.cat(
            [raw.new_zeros(1, count), torch.randn(TRIES - 1, count, generator=generator).to(raw)]
        )
        guess = torch.cat([record.starts()[one.start].expand(TRIES, -1), tries], 1)
        seen = torch.nn.functional.pad(y, (0, count), value=torch.nan).expand(-1, TRIES, -1)
        drive = one.drive.repeat(TRIES)

        def flow(states: Tensor, ts: Tensor, drive: Drive | None = None) -> Tensor:
            x, own = states.split([states.shape[1] - count, count], 1)
            ys = paths(bare, x, ts, drive, (own,))
            return torch.cat([ys, own.expand(len(ys), -1, -1)], -1)

        found = settle(flow, ts.expand(TRIES, -1), seen, guess, drive, SEARCHES)
        misfit = (
            (flow(found, ts.expand(TRIES, -1), drive) - seen).square().nanmean((0, 2)).nan_to_num(torch.inf, torch.inf)
        )
        with torch.no_grad():
            raw.copy_(found[misfit.argmin(), -count:])
    return followed_by(model, record)


def followed_by(model: Physics, record: Record) -> Record:
    """A record with hidden states as the equations have them, without networks and with their parameters as they are."""
    bare = Bare(model)

    def flow(states: Tensor, ts: Tensor, drive: Drive | None = None) -> Tensor:
        return paths(bare, states, ts, drive, (bare.raw.expand(len(states), -1),))

    def rates(values: np.ndarray, given: dict[str, np.ndarray]) -> np.ndarray:
        driven = [{name: torch.tensor(rows) for name, rows in given.items()}] if bare.takes else []
        x = torch.tensor(values)
        with torch.no_grad():
            return bare(x.new_zeros(()), x, *driven, bare.raw.expand(len(x), -1)).numpy()

    return followed(record, flow, rates)


class Bare:
    """The equations with networks that are 0, and parameters (B, P) of each sample."""

    def __init__(self, model: Physics) -> None:
        self.model, self.field, self.takes = model, PerSample(model), model.takes
        nets = model.equations.remainders.values()
        self.shapes = [p.shape for net in nets for p in net.mlp.parameters()]

    @property
    def raw(self) -> Tensor:
        """The parameters (P,) as they are now."""
        raw = self.model.equations.raw
        return torch.zeros(0, dtype=torch.float64) if raw is None else raw.detach()

    def __call__(self, t: Tensor, x: Tensor, *args: Any) -> Tensor:
        zeros = [x[:, 0].view(-1, *[1] * len(shape)) * x.new_zeros(shape) for shape in self.shapes]
        return self.field(t, x, *args, *zeros)
