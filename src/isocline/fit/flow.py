"""Paths from starting states, and the starting state from which a path best meets what was observed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from isocline.fit.drive import Drive
from isocline.fit.networks import Networks
from isocline.solve import solve

# (states (B, d), times (B, T) padded with NaN at the end, what drives them) -> paths (T, B, d), NaN or inf where a path
# cannot go on.
Flow = Callable[[Tensor, Tensor, Drive | None], Tensor]

RTOL, ATOL, MAX_STEPS = 1e-6, 1e-7, 20_000
EACH = 20  # steps from a time to the next, from an input to the next, or in a unit of scaled time, that a long record may take
FAR = 1e100  # standard deviations at which a path is lost
PULL = 1e-2  # weight of the first guess beside the observations: holds what they do not determine


@torch.no_grad()
def paths(
    field: Callable[..., Tensor], states: Tensor, ts: Tensor, drive: Drive | None = None, args: tuple[Tensor, ...] = ()
) -> Tensor:
    """Observations (T, B, d), each sample with its own adaptive steps; NaN or inf where a path was lost."""
    longest = float((ts - ts[:, :1]).nan_to_num(0.0, 0.0).max())
    knots = 0 if drive is None or drive.knots is None else drive.knots.shape[-1]
    steps = max(MAX_STEPS, EACH * max(ts.shape[-1], knots, math.ceil(longest)))
    options = {"rtol": RTOL, "atol": ATOL, "max_steps": steps, "throw": False}
    field, driven = (field, {}) if drive is None else drive.into(field)
    return ended(solve(field, states, ts, args=args, engine="auto", batching="per_sample", **driven, **options).ys)


def ended(ys: Tensor) -> Tensor:
    """Paths, inf where they are so far off that squares of errors would be no numbers: such a path is as lost as an infinite
    one, and everybody looks at those."""
    return torch.where(ys.abs() > FAR, torch.inf, ys)


def flow_of(field: nn.Module) -> Flow:
    """Paths of a learned field."""
    return partial(paths, field)


def flow_of_rows(networks: Networks, theta: Tensor) -> Flow:
    """Paths of many networks, sample b by the network of row b of θ (B, size); so is sample B + b, and so on."""

    def flow(states: Tensor, ts: Tensor, drive: Drive | None = None) -> Tensor:
        rows = theta.repeat(len(states) // len(theta), 1)
        return paths(networks.field, states, ts, drive, networks.handed(rows))

    return flow


def settle(
    flow: Flow, ts: Tensor, y: Tensor, guess: Tensor, drive: Drive | None = None, iterations: int = 10
) -> Tensor:
    """States (B, d) at the first times from which paths best meet observations, in least squares.

    Levenberg-Marquardt with the Jacobian from finite differences, all samples and differences in one batch: a dozen
    solves without a gradient in all. For a linear flow the first step is the answer.

    Args:
        flow: the model.
        ts: (B, T), NaN padded.
        y: (T, B, d), NaN where not observed.
        guess: (B, d).
        drive: of the B samples.

    Source:
        Nocedal & Wright (2006), Numerical Optimization, section 10.3.
    """
    count, dim = guess.shape
    step = 1e-3  # large beside the tolerance of the solves, small beside the states (of size one)
    directions = torch.cat([torch.zeros(1, dim), step * torch.eye(dim)]).to(guess)
    seen = ~y.isnan()
    weight = PULL**0.5
    driven = None if drive is None else drive.repeat(dim + 1)

    def residuals(states: Tensor) -> tuple[Tensor, Tensor]:
        """(B, R) and its Jacobian (B, R, d)."""
        around = (states + directions[:, None]).reshape(-1, dim)
        paths = flow(around, ts.repeat(dim + 1, 1), driven).reshape(len(ts[0]), dim + 1, count, dim)
        misfit = torch.where(seen[:, None], paths - y[:, None], 0.0).permute(1, 2, 0, 3).reshape(dim + 1, count, -1)
        pull = weight * (states + directions[:, None] - guess)
        r = torch.cat([misfit, pull], -1)
        return r[0], ((r[1:] - r[0]) / step).permute(1, 2, 0)

    state, damping = guess.clone(), torch.full((count,), 1e-3).to(guess)
    r, jacobian = residuals(state)
    cost = r.square().sum(1)
    for _ in range(iterations):
        normal = jacobian.mT @ jacobian
        damped = normal + damping[:, None, None] * torch.diag_embed(normal.diagonal(dim1=1, dim2=2) + 1e-9)
        move = torch.linalg.solve(
            damped.nan_to_num(0.0, 0.0, 0.0) + 1e-12 * torch.eye(dim).to(guess),
            -(jacobian.mT @ r[..., None]).nan_to_num(0.0, 0.0, 0.0),
        )[..., 0]
        trial = state + move
        r_trial, jacobian_trial = residuals(trial)
        cost_trial = r_trial.square().sum(1)
        better = (cost_trial < cost) & jacobian_trial.isfinite().all(-1).all(-1)
        state = torch.where(better[:, None], trial, state)
        r = torch.where(better[:, None], r_trial, r)
        jacobian = torch.where(better[:, None, None], jacobian_trial, jacobian)
        done = bool(((cost - cost_trial).abs() <= 1e-6 * cost).all())
        cost = torch.where(better, cost_trial, cost)
        damping = torch.where(better, damping / 10, damping * 10)
        if done:
            break
    return state
