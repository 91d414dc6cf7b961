"""`odeint`: gradients through the operations of the solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.compat.torchdiffeq.adjoint import with_adjoint
from isocline.compat.torchdiffeq.events import event_of, states_at_event, until_event
from isocline.compat.torchdiffeq.run import callbacks_of, checked, integrate


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
) -> Any:
    """Solves dy/dt = func(t, y) from y(t[0]) = y0, as torchdiffeq's `odeint` does.

    Gradients go through the operations of the solver, the sequence of steps held fixed; with `method="scipy_solver"`
    they come from the adjoint.

    Args:
        func: `func(t, y)`, `t` a 0-d tensor in the real dtype of `y`, `y` as `y0`; never called outside [t[0], t[-1]]
            (but by SciPy). Attributes `callback_step`, `callback_accept_step`, `callback_reject_step` are called with
            `(t, y, |h|)` where a step is tried, taken, given up.
        y0: tensor or tuple of tensors, of any shape, floating point or complex.
        t: (T,) floating-point tensor, strictly increasing or decreasing, in units of time.
        rtol, atol: number, tensor, or one of these for each part of a tuple.
        method: one of torchdiffeq's names; None: "dopri5".
        options: of the method; keys it does not take are warned of.
        event_fn: `event_fn(t, y)`; the solve ends where one of its entries first changes sign. `t` then has two
            entries, of which the second gives the direction alone.

    Returns:
        The states, (T, *y0.shape), or a tuple of such. With `event_fn` the pair (event time, states), states at t[0] and
        at the event.

    Raises:
        TypeError, ValueError: naming the argument, what came, what was expected.
        SolveError: the solve stopped early; it says where and why.

    Example:
        >>> import torch
        >>> k = torch.tensor(0.5, requires_grad=True)
        >>> y = odeint(lambda t, y: -k * y, torch.ones(1), torch.tensor([0.0, 2.0]))
        >>> y[-1].sum().backward()
        >>> round(y[-1].item(), 4), round(k.grad.item(), 4)
        (0.3679, -0.7358)
    """
    state, t, chosen, options = checked(func, y0, t, method, options)
    if event_fn is not None:
        crossing = event_of(event_fn, func, state, y0, t)
        call = (rtol, atol, chosen, options, callbacks_of(func))
        return states_at_event(y0, t, *until_event(func, state, y0, t, crossing, *call))
    if chosen.scipy:
        return with_adjoint(func, y0, t, rtol=rtol, atol=atol, method=chosen, options=options)
    return integrate(func, state, y0, t, rtol, atol, chosen, options, callbacks_of(func))


def odeint_event(
    func: Callable[..., Any],
    y0: Any,
    t0: Tensor,
    *,
    event_fn: Callable[..., Any],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Solves from t0 until `event_fn(t, y)` crosses zero; the event's time is differentiable.

    Args:
        func, y0: as for `odeint`.
        t0: initial time, 0-d or with one entry.
        event_fn: `event_fn(t, y)`, real; with several entries the first to cross zero counts.
        reverse_time: search backwards in time.
        odeint_interface: `odeint` or `odeint_adjoint`.
        kwargs: further arguments of that.

    Returns:
        The event's time, 0-d, and the states (2, *y0.shape) at t0 and there, or a tuple of such: differentiable with
        respect to y0, t0, the parameters of `func`, and those of `event_fn`.

    Raises:
        GradientError: in the backward pass, where the event only touches zero.
        SolveError: where the solve ends before an event.

    Source: R. T. Q. Chen, B. Amos, M. Nickel, Learning Neural Event Functions for Ordinary Differential Equations,
    ICLR 2021.

    Example:
        >>> import torch
        >>> y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
        >>> t, y = odeint_event(lambda t, y: -y, y0, torch.tensor(0.0), event_fn=lambda t, y: y[0] - 0.5)
        >>> t.backward()
        >>> round(t.item(), 5), round(y0.grad.item(), 5)
        (0.69315, 1.0)
    """
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    return odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
