"""Parallel in time: all intervals between the observations solved at once, as a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from isocline._types import Tensor
from isocline.solve import solve


class Parareal(NamedTuple):
    """The result of `parareal`.

    Attributes:
        ys: states at `ts`, (T, *y0.shape).
        iterations: corrections made.
        change: the largest change of the last one, in units of the trajectory's scale.

    Example:
        >>> import torch, isocline
        >>> found = isocline.parareal(lambda t, y: -y, torch.ones(2), torch.linspace(0, 1, 5))
        >>> found.ys.shape, found.change <= 1e-5
        (torch.Size([5, 2]), True)
    """

    ys: Tensor
    iterations: int
    change: float


def parareal(
    field: Callable[..., Any],
    y0: Tensor,
    ts: Tensor,
    *,
    coarse: Mapping[str, Any] | None = None,
    fine: Mapping[str, Any] | None = None,
    iterations: int | None = None,
    tol: float | None = None,
    args: tuple[Any, ...] = (),
) -> Parareal:
    """Solves dy/dt = f(t, y, *args) on all intervals of `ts` at once, and repairs the joints until nothing changes.

    With G a coarse solve over one interval and F a fine one, from a first guess by G, every iteration sets

        y_{n+1} ← G(y_n new) + F(y_n old) − G(y_n old),

    the F of all intervals in one per-sample batch. After k iterations the first k intervals are those of the fine solve,
    after T − 1 all. It pays where a solve is long and one field evaluation of many states takes about as long as one of a
    single state: on accelerators, and for small fields on a CPU.

    Args:
        field: `f(t, y, *args)`; `y` has the intervals as a further first dimension, (T − 1, *y0.shape), and `t` the shape
            (T − 1, 1, …, 1), in the coarse solves neither.
        y0: a real tensor.
        ts: (T,), strictly monotone, T ≥ 2; the joints are there.
        coarse: options of `solve` for G; None: one `rk4` step an interval.
        fine: options of `solve` for F; None: its defaults.
        iterations: at most so many; None: T − 1.
        tol: ends when the largest change is below, in units of the trajectory's largest number; None: 1e-5 for 32-bit
            states, 1e-8 for 64-bit.
        args: further arguments of the field.

    Returns:
        A `Parareal`; `ys` is differentiable as of `solve`, by the chain of all iterations.

    Source: J.-L. Lions, Y. Maday & G. Turinici, Résolution d'EDP par un schéma en temps « pararéel », C. R. Acad. Sci.
    Paris 332 (2001); as a layer: S. Massaroli et al., Differentiable Multiple Shooting Layers, NeurIPS 2021.

    Raises:
        TypeError, ValueError: naming the argument.
        SolveError: of a coarse or fine solve.

    Example:
        >>> import math, torch, isocline
        >>> y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> def field(t, y):
        ...     return torch.stack((y[..., 1], -y[..., 0]), -1)
        >>> ys, iterations, _ = isocline.parareal(field, y0, torch.linspace(0, 6, 13, dtype=torch.float64))
        >>> abs(ys[-1, 0].item() - math.cos(6.0)) < 1e-6, iterations < 12
        (True, True)
    """
    if not (isinstance(y0, torch.Tensor) and y0.is_floating_point()):
        raise TypeError(f"y0: expected a real tensor, got {type(y0).__name__}; join several states into one")
    ts = torch.as_tensor(ts, dtype=torch.float64) if not isinstance(ts, torch.Tensor) else ts
    if ts.dim() != 1 or len(ts) < 2:
        raise ValueError(f"ts: shape {tuple(ts.shape)}, expected (T,) with T ≥ 2")
    for name, options in (("coarse", coarse), ("fine", fine)):
        if options is not None and {"batching", "args"} & set(options):
            raise ValueError(f"{name}: batching and args are set by parareal; leave them out")
    count = len(ts) - 1
    tol = (1e-8 if y0.dtype == torch.float64 else 1e-5) if tol is None else tol
    intervals = ts.unfold(0, 2, 1)

    def rough(n: int, y: Tensor) -> Tensor:
        one_step: dict[str, Any] = {"solver": "rk4", "step": float(abs(ts[n + 1] - ts[n]))}
        options = one_step if coarse is None else coarse
        return solve(field, y, intervals[n], args=args, **options).ys[-1]

    ys, guesses = [y0], []
    for n in range(count):
        guesses.append(rough(n, ys[-1]))
        ys.append(guesses[-1])
    change, done = float("inf"), 0
    for done in range(1, (count if iterations is None else min(iterations, count)) + 1):
        ends = solve(field, torch.stack(ys[:-1]), intervals, args=args, batching="per_sample", **(fine or {})).ys[-1]
        new, before = ys[:1], torch.stack(ys).detach()
        for n in range(count):
            # The first intervals have come to rest: what the correction adds there is rounding.
            guess = guesses[n] if n < done else rough(n, new[-1])
            new.append(ends[n] if n < done else guess + (ends[n] - guesses[n]))
            guesses[n] = guess
        ys = new
        after = torch.stack(ys).detach()
        change = float((after - before).abs().max() / after.abs().max().clamp(min=torch.finfo(y0.dtype).tiny))
        if change <= tol:
            break
    return Parareal(torch.stack(ys), done, change)
