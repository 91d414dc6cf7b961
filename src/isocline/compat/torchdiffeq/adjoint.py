"""`odeint_adjoint`: the continuous adjoint of Chen et al. (2018), with torchdiffeq's controls.

Between two observations the way back integrates [y, a, a_θ] (their eq. 4, 5, 48–51), by the same solvers as the way
forward. The times' gradients need no equation of their own: ∂L/∂t_i = ⟨∂L/∂y_i, f(t_i, y_i)⟩, ∂L/∂t_0 = −⟨a, f(t_0, y_0)⟩.

`isocline.Backsolve` is the same method for isocline's own interface. It is not used here because torchdiffeq's users
may set its norm, its solver, its grid and its callbacks on the tuple (t, y, a, *θ) part by part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isocline.compat.torchdiffeq import scipy
from isocline.compat.torchdiffeq.events import event_of, states_at_event, until_event
from isocline.compat.torchdiffeq.methods import Method, method_named
from isocline.compat.torchdiffeq.run import callbacks_of, checked, integrate
from isocline.compat.torchdiffeq.state import State, mixed, rms
from isocline.gradients import GradientError
from isocline.gradients.backsolve import RAISE_ABOVE
from isocline.gradients.base import graph_leaves, reachable


def odeint_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Any = None,
) -> Any:
    """`odeint` with gradients from a solve backwards in time: memory does not grow with the number of steps.

    The gradient has the error of that solve, and is wrong where y cannot be integrated backwards; a warning says so
    where the y that arrives misses the stored one by more than 1 %. `isocline.solve` with its default gradient has
    neither fault in little more memory.

    Args:
        func: as for `odeint`; a module, or anything callable with `adjoint_params` given. The callbacks' names with
            `_adjoint` at their end are those of the way back, where y is the tuple (t, y, a, *parameters).
        y0, t, rtol, atol, method, options, event_fn: as for `odeint`.
        adjoint_rtol, adjoint_atol, adjoint_method: of the way back; None: the forward ones. A tuple gives one tolerance
            to each part of the state, or to each part of (t, y, a, *parameters).
        adjoint_options: of the way back; None: the forward ones but `norm`. `norm` is "seminorm", which leaves the
            parameters out, or a function of the tuple (t, y, a, *parameters); for a tuple state (t, *y, *a, *parameters).
        adjoint_params: what gets a gradient besides y0 and t; None: the parameters of `func`, and every tensor that
            requires grad which it holds otherwise.

    Returns:
        As `odeint`. First derivatives by the adjoint; second derivatives are refused by name.

    Raises:
        ValueError: without `adjoint_params` where `func` is no module, and where `adjoint_method` differs from `method`
            so that `options` cannot serve both.
        GradientError: in the backward pass, for second derivatives.

    Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural Ordinary Differential Equations, NeurIPS
    2018; seminorms: P. Kidger, R. T. Q. Chen, T. Lyons, "Hey, that's not an ODE", ICML 2021.

    Example:
        >>> import torch
        >>> field = torch.nn.Linear(2, 2, bias=False)
        >>> func = lambda t, y: field(y)
        >>> t = torch.tensor([0.0, 1.0])
        >>> odeint_adjoint(func, torch.ones(2), t, adjoint_params=field.parameters())[-1].sum().backward()
        >>> field.weight.grad.shape
        torch.Size([2, 2])
    """
    if adjoint_params is None and not isinstance(func, nn.Module):
        raise ValueError(
            "func must be an instance of nn.Module to specify the adjoint parameters; alternatively they can be specified "
            "explicitly via the adjoint_params argument, adjoint_params=() if there are none"
        )
    if adjoint_method is not None and adjoint_method != method and options is not None and adjoint_options is None:
        raise ValueError(
            f"adjoint_method={adjoint_method!r} differs from method={method!r}, so that options={options} cannot serve both: "
            f"pass adjoint_options as well"
        )
    way_back: dict[str, Any] = {
        "adjoint_rtol": adjoint_rtol,
        "adjoint_atol": adjoint_atol,
        "adjoint_method": adjoint_method,
        "adjoint_options": adjoint_options,
        "adjoint_params": None if adjoint_params is None else tuple(adjoint_params),
    }
    state, t, chosen, options = checked(func, y0, t, method, options)
    if torch._C._are_functorch_transforms_active() and not chosen.scipy:
        # vmap and jvp cannot see into the adjoint.
        return integrate(func, state, y0, t, rtol, atol, chosen, options, callbacks_of(func))
    if event_fn is None:
        return with_adjoint(func, y0, t, rtol=rtol, atol=atol, method=chosen, options=options, **way_back)
    crossing = event_of(event_fn, func, state, y0, t)
    with torch.no_grad():
        found = until_event(func, state, y0, t, crossing, rtol, atol, chosen, options, callbacks_of(func))
        _, path = states_at_event(y0, t, *found)
    when = found[0]
    ys = with_adjoint(
        func,
        y0,
        torch.stack((t[0].double(), when.double())),
        rtol=rtol,
        atol=atol,
        method=chosen,
        options=options,
        solved=path,
        **way_back,
    )
    return states_at_event(y0, t, *crossing.attach(when, pytree.tree_map(lambda x: x[-1], ys)))


def with_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: Any,
    atol: Any,
    method: Method,
    options: dict[str, Any],
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
    solved: Any = None,
) -> Any:
    """`odeint_adjoint` after its checks; `adjoint_params` None: found in `func`, whatever it is.

    `solved` are the states at `t` where they are known already, without a graph.
    """
    state = State(y0)
    if adjoint_params is None:
        given, hidden = parameters_of(func), hidden_tensors(func, y0, t)
    else:
        given, hidden = list(adjoint_params), []
    params = unique([p for p in given if p.requires_grad])
    hidden = unique([x for x in hidden if x.requires_grad], known=params)
    own = {k: v for k, v in options.items() if k != "norm"} if adjoint_options is None else dict(adjoint_options)
    if callable(own.get("norm")) and any(not p.requires_grad for p in given):
        warnings.warn(
            "adjoint_params: one does not require gradient; it is left out of the adjoint, and of what its norm is given",
            stacklevel=3,
        )
    back = method if adjoint_method is None else method_named(adjoint_method)
    if back is not method or adjoint_options is not None:
        back.check(own)
    own["norm"] = adjoint_norm(own.get("norm"), state, options.get("norm"))
    plan = _Plan(
        func,
        state,
        t.detach(),
        _Way(method, rtol, atol, options),
        _Way(back, rtol if adjoint_rtol is None else adjoint_rtol, atol if adjoint_atol is None else adjoint_atol, own),
        len(params),
        None if solved is None else state.pack_path(solved, len(t)),
    )
    ys = _Adjoint.apply(plan, state.pack(y0), t, *params, *hidden)
    return state.unpack(ys)


@dataclass
class _Way:
    """How to integrate, one way."""

    method: Method
    rtol: Any
    atol: Any
    options: dict[str, Any]

    def integrate(self, func: Any, state: State, y0: Any, t: Tensor, callbacks: Mapping[str, Any]) -> Any:
        solver = scipy.integrate if self.method.scipy else integrate
        return solver(func, state, y0, t, self.rtol, self.atol, self.method, self.options, callbacks)


@dataclass
class _Plan:
    """What the way forward leaves for the way back; it must not hold the outputs.

    Attributes:
        named: how many of the parameters torchdiffeq knows of; its norms and callbacks get no others.
        solved: the states, where they are known beforehand.
    """

    func: Callable[..., Any]
    state: State
    t: Tensor
    forward: _Way
    back: _Way
    named: int
    solved: Tensor | None = None
    warned: bool = False

    def solve(self, y0: Tensor) -> Tensor:
        """The way forward, packed."""
        if self.solved is not None:
            solved, self.solved = self.solved, None
            return solved
        y = self.state.unpack(y0)
        ys = self.forward.integrate(self.func, self.state, y, self.t, callbacks_of(self.func))
        return self.state.pack_path(ys, len(self.t))

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """f on the packed state."""
        state = self.state
        f = state.field(self.func)
        return state.pack(f(t.to(state.layout.time_dtype), state.unpack(y)))

    def augmented(self, params: Sequence[Tensor]) -> Callable[[Tensor, Any], Any]:
        """d/dt of (y, a, *a_θ)."""

        def rate(t: Tensor, s: Any) -> Any:
            # An implicit solver differentiates this in turn, for its Jacobian.
            again = torch.is_grad_enabled() and any(x.requires_grad for x in s)
            with torch.enable_grad():
                y = s[0] if again and s[0].requires_grad else s[0].detach().requires_grad_()
                slope = self.slope(t, y)
                grads: Sequence[Tensor | None] = [None] * (1 + len(params))
                if slope.requires_grad:
                    grads = torch.autograd.grad(
                        slope, (y, *params), -s[1], allow_unused=True, retain_graph=True, create_graph=again
                    )
            rest = (torch.zeros_like(x) if g is None else g for g, x in zip(grads, (y, *params), strict=True))
            return (slope, *rest) if again else (slope.detach(), *(x.detach() for x in rest))

        return rate

    def over(self, name: str, value: Any, params: Sequence[Tensor]) -> Any:
        """A tolerance over (y, a, *a_θ): the parameters get the smallest of the state's."""
        if isinstance(value, (tuple, list)) and len(value) == 3 + self.named:
            # In torchdiffeq's form, one for each of (t, y, a, *parameters).
            least = min(float(torch.as_tensor(v).min()) for v in value)
            return (*value[1:], *[least] * (len(params) - self.named))
        value = self.state.tolerance(name, value)
        if isinstance(value, float):
            return value
        parts = value if isinstance(value, tuple) else (value,)
        layout = self.state.layout
        full = [
            torch.as_tensor(v, dtype=layout.dtype, device=layout.device).expand(shape).reshape(-1)
            for v, shape in zip(parts, layout.shapes, strict=True)
        ]
        if self.state.is_tuple:  # packed, a complex number takes two places
            full = [v.repeat_interleave(2) if d.is_complex else v for v, d in zip(full, layout.dtypes, strict=True)]
            y = torch.cat(full)
        else:
            y = full[0].view(layout.shapes[0])
        least = float(y.min()) if y.numel() else 0.0
        return (y, y, *[least] * len(params))

    def pull_back(
        self, norm: Any, ys: Tensor, cotangents: Tensor, params: Sequence[Tensor], times: bool
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Cotangents of y0, of t, and of the parameters."""
        ts = self.t
        a = torch.zeros_like(ys[0])
        totals = [torch.zeros_like(p) for p in params]
        grad_t = torch.zeros_like(ts) if times else None
        form = State((ys[0], a, *totals))
        zero = ys[0].new_zeros((), dtype=self.state.layout.time_dtype)
        way = _Way(
            self.back.method,
            self.over("rtol", self.back.rtol, params),
            self.over("atol", self.back.atol, params),
            {**self.back.options, "norm": lambda s: norm((zero, *s[: 2 + self.named]))},
        )
        callbacks = {
            name: (lambda t, s, h, call=call: call(t, (zero, *s[: 2 + self.named]), h))
            for name, call in callbacks_of(self.func, "_adjoint").items()
        }
        rate = self.augmented(params)
        for i in range(len(ts) - 1, 0, -1):
            a = a + cotangents[i]
            if grad_t is not None:
                grad_t[i] = inner(cotangents[i], self.slope(ts[i], ys[i]))
            if not bool(a.any()):
                continue
            interval = torch.stack((ts[i], ts[i - 1]))
            path = way.integrate(rate, form, (ys[i], a, *totals), interval, callbacks)
            arrived, a, *totals = (x[1] for x in path)
            self.compare(arrived, ys, i)
        if grad_t is not None:
            grad_t[0] = -inner(a, self.slope(ts[0], ys[0]))
        return a + cotangents[0], grad_t, totals

    def compare(self, arrived: Tensor, ys: Tensor, i: int) -> None:
        """Warns, once, where the y that arrives is not the one that set out."""
        if self.warned or not arrived.numel():
            return
        scale = float(ys.abs().max())
        miss = float((arrived - ys[i - 1]).abs().square().mean().sqrt())
        if miss > RAISE_ABOVE * scale:
            self.warned = True
            warnings.warn(
                f"odeint_adjoint: y integrated backwards from t = {self.t[i].item():.6g} misses the stored y at t = "
                f"{self.t[i - 1].item():.6g} by {miss / scale:.2g} of the trajectory's scale; the gradient is not to be "
                f"trusted. Use odeint, isocline.solve, more observation times, or tighter tolerances",
                stacklevel=2,
            )


class _Adjoint(torch.autograd.Function):
    """(y0, t, parameters) -> ys, packed. Nothing may stand behind it that hides reference cycles from the collector."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, y0: Tensor, t: Tensor, *params: Tensor) -> Tensor:
        ctx.plan = plan
        ctx.adjoint_options = plan.back.options
        with torch.no_grad():
            ys = plan.solve(y0.detach())
        ctx.save_for_backward(t, ys, *params)
        return ys

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (grad_ys,) = cotangents
        _, ys, *params = ctx.saved_tensors
        with torch.no_grad():
            a, grad_t, totals = ctx.plan.pull_back(
                ctx.adjoint_options["norm"], ys.detach(), grad_ys, params, ctx.needs_input_grad[2]
            )
        grads = [a, grad_t, *totals]
        if torch.is_grad_enabled():
            known = [i for i, g in enumerate(grads) if g is not None]
            refused = _Refused.apply(len(known), *(grads[i] for i in known), grad_ys, ys, *params)
            for i, g in zip(known, refused, strict=True):
                grads[i] = g
        return (None, *grads)


class _Refused(torch.autograd.Function):
    """First derivatives made with create_graph: values, but nothing to differentiate, and not in silence."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> Any:
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise GradientError(
            "odeint_adjoint has no second derivatives; use odeint, or isocline.solve with gradient='checkpointed'"
        )


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Real inner product of two states."""
    if x.is_complex():
        x, y = torch.view_as_real(x.resolve_conj()), torch.view_as_real(y.resolve_conj())
    return (x * y).sum()


def adjoint_norm(
    norm: Any, state: State, forward_norm: Callable[[Any], Any] | None
) -> Callable[[tuple[Tensor, ...]], Any]:
    """The norm of (t, y, a, *a_θ): the largest of the parts', the user's, or without the parameters."""
    if callable(norm):
        if not state.is_tuple:
            return norm
        return lambda s: norm((s[0], *state.unpack(s[1]), *state.unpack(s[2]), *s[3:]))
    if norm not in (None, "seminorm"):
        raise ValueError(f"adjoint_options: norm={norm!r}, expected 'seminorm' or a callable")

    def of_state(y: Tensor) -> Tensor:
        if forward_norm is not None:
            return torch.as_tensor(forward_norm(state.unpack(y)))
        return mixed(state.unpack(y)) if state.is_tuple else rms(y)

    def largest(s: tuple[Tensor, ...]) -> Tensor:
        t, y, a, *rest = s
        parts = [t.abs(), of_state(y), of_state(a)]
        if norm is None:
            parts += [rms(p) for p in rest]
        return (
            torch.stack([p.to(torch.float64 if p.device.type != "mps" else p.dtype) for p in parts])
            .amax()
            .to(y.abs().dtype)
        )

    return largest


def parameters_of(func: Any) -> list[Tensor]:
    """Those of a module, also where DataParallel has made a replica of it, which registers none."""
    if not isinstance(func, nn.Module):
        return []
    if getattr(func, "_is_replica", False):
        return [
            value
            for module in func.modules()
            for value in vars(module).values()
            if isinstance(value, Tensor) and value.requires_grad
        ]
    return list(func.parameters())


def hidden_tensors(func: Any, y0: Any, t: Tensor) -> list[Tensor]:
    """Tensors a gradient reaches though no module registers them: attributes, closures, globals."""
    if isinstance(func, nn.Module):
        return list(reachable(func))
    start = State(y0)
    with torch.enable_grad():
        slope = start.pack(start.field(func)(t[0].detach().to(start.layout.time_dtype), y0))
    return [*reachable(func), *graph_leaves(slope)]


def unique(tensors: Sequence[Tensor], known: Sequence[Tensor] = ()) -> list[Tensor]:
    """Each tensor once: one listed twice must not be counted twice."""
    seen = {id(x) for x in known}
    return [x for x in tensors if not (id(x) in seen or seen.add(id(x)))]
