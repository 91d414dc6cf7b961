"""Continuous normalizing flows: a density carried along by a vector field."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal, Transform

from isocline._types import Float, Tensor
from isocline.solution import Solution
from isocline.solve import solve


class CNF(nn.Module):
    """x = z(t₁) where z(t₀) follows a base distribution and dz/dt = f(t, z): a distribution with an exact density.

    Along a path d log p(z(t))/dt = -tr ∂f/∂z, so that

        log p(x) = log p_base(z(t₀)) - ∫ tr ∂f/∂z dt from t₀ to t₁,

    and both come out of one solve from t₁ back to t₀ that starts at (x, 0). Samples are solves from t₀ to t₁.

    Source: Chen et al., Neural Ordinary Differential Equations (NeurIPS 2018), Theorem 1; the estimate of the trace:
    Grathwohl et al., FFJORD (ICLR 2019), eq. 7 and 8; the costs: Finlay et al., How to train your neural ODE (ICML 2020).

    Args:
        field: f(t, z), z (..., D). If it has `value_and_divergence(t, z) -> (f, tr ∂f/∂z)`, as `PlanarField`, or
            `jvp(t, z, v) -> (f, (∂f/∂z) v)` for v (K, ..., D), as `MLP` and `TimeMLP` have both, those are used; they must
            be the derivatives of what it returns when called. A subclass with another `forward` does not inherit them;
            one may return NotImplemented.
        base: distribution of z(t₀) with event shape (D,): a `torch.distributions` object (a normal over a vector is
            `Independent(Normal(loc, scale), 1)`), a module with `log_prob`, `sample`, `rsample` and `event_shape`, or a
            number D for the standard normal. Tensors of a distribution move with `.to`, and are not in the state dict.
        ts: (t₀, t₁), in either order of size: two numbers, or a tensor (2,) (as `nn.Parameter` it is learned).
        trace: "exact": with an `MLP` or `TimeMLP` of two hidden layers at most in closed form, at the cost of about one
            tangent whatever D is; else D tangents. "hutchinson": the estimate ε·(∂f/∂z)ε with E[εεᵀ] = I, one ε a sample
            that stays the same during a solve; unbiased, at the cost of one tangent.
        noise: of ε: "rademacher" (±1, least variance) or "gaussian".
        derivatives: of a field without methods for them: "reverse" pulls cotangents with `torch.autograd.grad`, one after
            the other, and works with whatever autograd can differentiate twice; "forward" pushes all tangents at once
            with `torch.func.jvp`, slower in few dimensions and lighter in many.
        **options: everything `isocline.solve` takes: `solver`, `gradient`, `rtol`, `step`, `batching`, …; here engine="auto"
            and batching=None where nothing else is said, as for `NeuralODE`.

    Attributes:
        stats: of the last solve.

    Raises:
        ValueError: for an unknown `trace`, `noise` or `derivatives`, a base that is not over vectors, a wrong shape of `ts`.

    Example:
        >>> import torch
        >>> from isocline.nn import CNF, TimeMLP
        >>> flow = CNF(TimeMLP((2, 16, 2)), base=2, rtol=1e-4)
        >>> x = flow.sample((100,))
        >>> flow.log_prob(x).mean().backward()
        >>> x.shape, flow.log_prob(x).shape
        (torch.Size([100, 2]), torch.Size([100]))
    """

    has_rsample = True
    base: Any
    ts: Any

    def __init__(
        self,
        field: Callable[..., Any],
        base: Distribution | nn.Module | int,
        *,
        ts: Sequence[float] | Tensor = (0.0, 1.0),
        trace: str = "exact",
        noise: str = "rademacher",
        derivatives: str = "reverse",
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("trace", trace, ("exact", "hutchinson")),
            ("noise", noise, ("rademacher", "gaussian")),
            ("derivatives", derivatives, ("forward", "reverse")),
        ):
            if value not in known:
                raise ValueError(f"CNF: {name}={value!r}, expected {known[0]!r} or {known[1]!r}")
        given: Any = base
        if isinstance(base, int):  # which looks at no number it is given, for torch.export
            given = Independent(Normal(torch.zeros(base), torch.ones(base), validate_args=False), 1)
        shape = tuple(given.event_shape)
        if len(shape) != 1:
            raise ValueError(
                f"CNF: the base has event_shape {shape}, expected (D,); "
                "torch.distributions.Independent(base, 1) makes the last dimension of its batch an event"
            )
        if len(ts) != 2:
            raise ValueError(f"CNF: ts of length {len(ts)}, expected two times (t0, t1)")
        self.field, self.base, self.ts = field, given, ts
        self.trace, self.noise, self.derivatives = trace, noise, derivatives
        self.options = options
        self.stats: Any = None
        self.carried: dict[bool, Carried] = {}  # with and without costs

    # ---- a distribution --------------------------------------------------------------------------------------------
    @property
    def event_shape(self) -> torch.Size:
        """(D,)."""
        return self.base.event_shape

    @property
    def batch_shape(self) -> torch.Size:
        """The base's."""
        return getattr(self.base, "batch_shape", torch.Size())

    def log_prob(self, x: Float[Tensor, "*shape dim"], t: Any = None, *, trace: str | None = None) -> Tensor:
        """log p(x), (..., D) -> (...).

        Args:
            x: points, whose leading dimensions broadcast against the batch shape.
            t: the time whose density is asked; None: t₁.
            trace: "exact" or "hutchinson"; None: the model's own.

        Raises:
            ValueError: where the last dimension of x is not D.
        """
        z, gained, _ = self._carried(x, self.ts[1] if t is None else t, self.ts[0], trace)
        return self.base.log_prob(z) + gained

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """(*sample_shape, *batch_shape, D), without a graph."""
        with torch.no_grad():
            return self.to_data(self.base.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The same, differentiable with respect to the field and the base."""
        return self.to_data(self.base.rsample(torch.Size(sample_shape)))

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Samples and their log density from one solve: what a KL divergence KL(q‖p) needs."""
        z = self.base.rsample(torch.Size(sample_shape))
        x, gained, _ = self._carried(z, self.ts[0], self.ts[1], None)
        return x, self.base.log_prob(z) - gained

    # ---- a map -----------------------------------------------------------------------------------------------------
    def to_data(self, z: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """z(t₀) -> z(t₁)."""
        return self.path(z, self.ts)[-1]

    def to_base(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """z(t₁) -> z(t₀), the inverse of `to_data` up to the solver's error."""
        return self.path(x, self._between(self.ts[1], self.ts[0]))[-1]

    def path(self, z: Float[Tensor, "*shape dim"], ts: Any) -> Float[Tensor, "times *shape dim"]:
        """The points that are at z at ts[0], at all `ts`: (T, ..., D). Without densities."""
        flat = self._rows(z)
        ys = self._solution(self.field, flat, ts).ys
        return ys.reshape(-1, *z.shape)

    # ---- costs -----------------------------------------------------------------------------------------------------
    def log_prob_and_costs(
        self, x: Float[Tensor, "*shape dim"], *, trace: str | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x), and two integrals over the path of x that make a flow easy to solve when they are small.

        Returns:
            log p(x), ∫ |f|² dt (the kinetic energy) and ∫ ‖∂f/∂z‖² dt (Frobenius; with "hutchinson" its estimate
            |(∂f/∂z)ε|² or |εᵀ ∂f/∂z|²), each (...).
        """
        z, gained, costs = self._carried(x, self.ts[1], self.ts[0], trace, costs=True)
        forward = float(self.ts[1]) > float(self.ts[0])
        kinetic, jacobian = (-costs if forward else costs).unbind(-1)
        return self.base.log_prob(z) + gained, kinetic, jacobian

    # ---- inside ----------------------------------------------------------------------------------------------------
    def _carried(
        self, x: Tensor, start: Any, end: Any, trace: str | None, costs: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where x goes from `start` to `end`, ∫ tr ∂f/∂z dt on the way, and the two costs."""
        trace = self.trace if trace is None else trace
        if trace not in ("exact", "hutchinson"):
            raise ValueError(f"trace={trace!r}, expected 'exact' or 'hutchinson'")
        rows = self._rows(x)
        noise = ()
        if trace == "hutchinson":
            drawn = torch.randn_like(rows)
            noise = (drawn.sign() if self.noise == "rademacher" else drawn,)
        extra = 3 if costs else 1
        if not isinstance(start, Tensor) and not isinstance(end, Tensor) and start == end:
            return x, x.new_zeros(x.shape[:-1]), x.new_zeros((*x.shape[:-1], extra - 1))
        carried = self._field_of(x.shape[-1], costs)
        state = torch.cat([rows, rows.new_zeros((len(rows), extra))], -1)
        out = self._solution(carried, state, self._between(start, end), args=noise).ys[-1]
        out = out.reshape(*x.shape[:-1], -1)
        dim = x.shape[-1]
        return out[..., :dim], out[..., dim], out[..., dim + 1 :]

    def _field_of(self, dim: int, costs: bool) -> Carried:
        """The same one in each call: an engine knows a field again that it has seen."""
        kept = self.carried.get(costs)
        if kept is None or kept.field is not self.field or kept.derivatives != self.derivatives:
            kept = self.carried[costs] = Carried(self.field, dim, costs, self.derivatives)
        return kept

    def _rows(self, x: Tensor) -> Tensor:
        """(N, D); ValueError where the last dimension is not D."""
        if not isinstance(x, Tensor) or x.shape[-1:] != self.event_shape:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"CNF: got {found}, expected points of shape (..., {self.event_shape[0]})")
        return x.reshape(-1, x.shape[-1])

    def _between(self, start: Any, end: Any) -> Any:
        if isinstance(start, Tensor) or isinstance(end, Tensor):
            like = start if isinstance(start, Tensor) else end
            return torch.stack([torch.as_tensor(t, dtype=like.dtype, device=like.device) for t in (start, end)])
        return (start, end)

    def _solution(self, field: Callable[..., Any], y0: Tensor, ts: Any, **options: Any) -> Solution:
        given: dict[str, Any] = {"engine": "auto", "batching": None, **self.options, **options}
        solution = solve(field, y0, ts, **given)
        if not torch.compiler.is_compiling():
            self.stats = solution.stats
        return solution

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CNF:
        super()._apply(fn, recurse)
        if isinstance(self.base, Distribution):
            self.base = moved(self.base, fn)
        return self


class Carried(nn.Module):
    """(z, ∫ tr ∂f/∂z, …) as one state: the field that a density is carried with.

    Args:
        field: f(t, z).
        dim: D.
        costs: append |f|² and ‖∂f/∂z‖².
        derivatives: "forward" or "reverse".

    Shapes:
        t 0-d or (N, 1); state (N, D + 1) or (N, D + 3); noise (N, D), none for the exact trace.

    Example:
        >>> import torch
        >>> Carried(lambda t, z: z * torch.tensor([1.0, 2.0]), 2)(torch.tensor(0.0), torch.ones(1, 3))
        tensor([[1., 2., 3.]])
    """

    def __init__(self, field: Callable[..., Any], dim: int, costs: bool = False, derivatives: str = "forward") -> None:
        super().__init__()
        self.field, self.dim, self.costs, self.derivatives = field, dim, costs, derivatives

    def forward(self, t: Tensor, state: Tensor, *noise: Tensor) -> Tensor:
        """The derivative of the state."""
        z = state[..., : self.dim]
        closed = None if noise or self.costs else derivative_of(self.field, "value_and_divergence")
        if closed is not None and (known := closed(t, z)) is not NotImplemented:
            f, trace = known
            return torch.cat([f, trace.unsqueeze(-1)], -1)
        # (K, N, D): one row of noise a sample, or the D unit vectors for all.
        v = noise[0].unsqueeze(0) if noise else torch.eye(self.dim, dtype=z.dtype, device=z.device).unsqueeze(1)
        f, products = self._products(t, z, v)
        parts = [f, (products * v).sum((0, -1)).unsqueeze(-1)]
        if self.costs:
            parts += [f.square().sum(-1, keepdim=True), products.square().sum((0, -1)).unsqueeze(-1)]
        return torch.cat(parts, -1)

    def _products(self, t: Tensor, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """f, and (∂f/∂z) v or vᵀ ∂f/∂z: for the trace and for the norm it is all one."""
        push = derivative_of(self.field, "jvp")
        if push is not None and (known := push(t, z, v)) is not NotImplemented:
            return known
        return (self._pushed if self.derivatives == "forward" else self._pulled)(t, z, v)

    def _pushed(self, t: Tensor, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """f and (∂f/∂z) v."""

        def push(one: Tensor) -> Any:
            return torch.func.jvp(lambda z: self.field(t, z), (z,), (one.expand_as(z),))

        if len(v) == 1:
            f, products = push(v[0])
            return f, products.unsqueeze(0)
        f, products = torch.func.vmap(push)(v)
        return f[0], products

    def _pulled(self, t: Tensor, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """f and vᵀ ∂f/∂z."""
        graph = torch.is_grad_enabled() and (z.requires_grad or self.field(t, z).requires_grad)
        with torch.enable_grad():
            z = z if graph and z.requires_grad else z.detach().requires_grad_()
            f = self.field(t, z)
            rows = [torch.autograd.grad(f, z, one.expand_as(f), create_graph=graph, retain_graph=True)[0] for one in v]
        return (f, torch.stack(rows)) if graph else (f.detach(), torch.stack(rows))


def derivative_of(field: Any, name: str) -> Callable[..., Any] | None:
    """The field's own method for a derivative, if it has one of what it returns: a subclass with a `forward` of its own
    inherits those of another function."""
    for kind in type(field).__mro__:
        if name in vars(kind):
            break
        if "forward" in vars(kind):
            return getattr(field, "__dict__", {}).get(name)
    return getattr(field, name, None)


def moved(thing: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """A distribution with `fn` applied to all its tensors of real numbers, in its parts too."""
    if isinstance(thing, Tensor):
        return fn(thing) if thing.is_floating_point() else thing
    if isinstance(thing, (list, tuple)) and not isinstance(thing, torch.Size):
        return type(thing)(moved(part, fn) for part in thing)
    if not isinstance(thing, (Distribution, Transform)):
        return thing
    other = copy.copy(thing)
    for name, value in vars(thing).items():
        other.__dict__[name] = moved(value, fn)
    return other
