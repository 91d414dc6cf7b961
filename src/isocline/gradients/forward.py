"""Forward sensitivities: the derivative of the state goes along with it, and nothing has to go back.

With S = ∂y/∂(y₀, θ), one column a number that is differentiated (P in all), every accepted step y₁ = Φ(y, θ) takes

    S₁ = ∂Φ/∂y · S + ∂Φ/∂θ · ∂θ,      S₀ = ∂y₀,

the derivative of the step itself, with its stages (E. Hairer, S. P. Nørsett & G. Wanner I, II.6). The gradient of a loss
is then a product with the S kept at the observations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.autocast import uncast
from isocline.engines import eager
from isocline.engines.eager import Problem, Trajectory
from isocline.engines.eager.observations import Inner
from isocline.engines.eager.steps import RowStep
from isocline.gradients.base import Gradient, GradientError, Inputs
from isocline.gradients.way_back import Refused, real_view, unpack
from isocline.solvers.memory import Remembering, visible
from isocline.solvers.runge_kutta import DenseStep

AT_ONCE = 64 * 2**20  # bytes that the directions taken through a step together may need
TWICE = "Forward: f cannot be differentiated twice by autograd, which this method needs to go forwards"


@dataclass(frozen=True)
class Forward(Gradient):
    """Forward sensitivities: exact like `Backprop`, for few parameters; nothing is recorded and nothing replayed later.

    As every step is accepted it is evaluated once more with a graph of its own, and all P directions (a number of y0, of
    `args`, of a parameter each) are taken through it together. `backward()` is then a matrix product and calls no field;
    it may be repeated for any number of losses. Memory: T·N·P numbers for T observations of N numbers, whatever the
    number of steps. Time: that of a Jacobian of the step, so a few dozen times a plain solve for P in the hundreds;
    `Checkpointed` takes one more forward whatever P is.

    Args:
        directions: the largest P taken.
        memory: budget in bytes for the sensitivities at the observations.

    Implicit and Rosenbrock steps are differentiated by the same formulas as by `Backprop`.
    Fields must be twice differentiable by autograd (it takes a product forwards by going backwards twice).
    Second derivatives are refused by name; so is the gradient of `Solution.at`.

    Source: Hairer, Nørsett & Wanner, Solving Ordinary Differential Equations I, I.14 (the variational equations).

    Raises:
        GradientError: P or the memory is beyond the limit; it names both and what to use instead.

    Example:
        >>> import torch, isocline
        >>> k = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        >>> y0 = torch.ones(1, dtype=torch.float64)
        >>> sol = isocline.solve(lambda t, y: -k * y, y0, [0.0, 1.0, 2.0], gradient=Forward())
        >>> by_time = [torch.autograd.grad(y.sum(), k, retain_graph=True)[0].item() for y in sol.ys[1:]]
        >>> [round(g, 5) for g in by_time], sol.stats.evaluations_backward
        ([-0.60653, -0.73576], 0)
    """

    directions: int = 10_000
    memory: int = 2**30

    def __post_init__(self) -> None:
        for name in ("directions", "memory"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value > 0):
                raise ValueError(f"Forward: {name}={value!r}, expected a positive integer")

    def run(self, problem: Problem, y0: Tensor) -> Trajectory:
        inputs = Inputs.of(problem, y0)
        if not (y0.requires_grad or inputs.tensors):
            return eager.integrate(problem, y0)
        plan = _Plan(problem, inputs, y0)
        self._check(plan, problem, y0)
        ys = _Product.apply(plan, y0, *inputs.tensors)
        trajectory, plan.trajectory = plan.trajectory, None
        assert trajectory is not None
        trajectory.ys = ys
        if problem.dense:
            trajectory.dense_y = [Refused.apply(y, ys, "Forward") for y in trajectory.dense_y]
        return trajectory

    def _check(self, plan: _Plan, problem: Problem, y0: Tensor) -> None:
        times = len(problem.ts) if isinstance(problem.ts, list) else problem.ts.shape[1]
        count, size = plan.directions, plan.directions * times * y0.numel() * y0.element_size()
        if count <= self.directions and size <= self.memory:
            return
        parts = [f"{y0.numel():,} of y0"] if y0.requires_grad else []
        parts += [f"{sum(plan.sizes):,} of {len(plan.sizes)} args and parameters"] if plan.sizes else []
        raise GradientError(
            f"Forward: {count:,} numbers to differentiate by ({', '.join(parts)}) and {size:,} bytes of sensitivities at "
            f"{times} observations; its limits are directions={self.directions:,} and memory={self.memory:,}. Use "
            f"gradient='checkpointed', whose cost does not grow with the parameters, or freeze what need not be learned"
        )


class _Plan:
    """The sensitivities, and how a step changes them; it must not hold the outputs."""

    def __init__(self, problem: Problem, inputs: Inputs, y0: Tensor) -> None:
        self.problem, self.inputs, self.solver = problem, inputs, problem.solver
        self.of_y0 = y0.numel() if y0.requires_grad else 0
        self.sizes = [real_view(x).numel() for x in inputs.sources]
        self.directions = self.of_y0 + sum(self.sizes)
        state = y0.numel() * y0.element_size()
        step = problem.solver.tableau.dense_stages * (inputs.saved + 2 * state)
        self.at_once = max(1, min(self.directions, AT_ONCE // max(1, step)))
        self.batched, self.generator = True, torch.Generator(y0.device).manual_seed(0)
        self.trajectory: Trajectory | None = None

    def solve(self, y0: Tensor) -> Tensor:
        """The way forward; leaves `kept` (P, T, …), what the gradient is a product with."""
        seeds = y0.new_zeros(self.directions, y0.numel())
        seeds[: self.of_y0].fill_diagonal_(1.0)
        seeds = seeds.view(-1, *y0.shape)
        self.state, self.batch, self.like = seeds, len(y0), y0
        if isinstance(self.solver, Remembering):
            # The memory is still to be begun: the first step makes it of y.
            memory = seeds.new_zeros(self.directions, len(self.solver.begin(y0)) - 1, *y0.shape)
            self.state = torch.cat([seeds.unsqueeze(1), memory], 1)
        ts = self.problem.ts
        if isinstance(ts, list):
            self.kept = seeds.new_zeros(self.directions, len(ts), *y0.shape)
            self.kept[:, 0] = seeds
        else:
            here = (ts == ts[:, :1]).t().unsqueeze(2)
            self.kept = torch.where(here, seeds.unsqueeze(1), 0.0).contiguous()
        count = self.inputs.field.evaluations
        self.trajectory = trajectory = eager.integrate(self.problem, y0, self._take)
        trajectory.stats.evaluations = trajectory.stats.evaluations + (self.inputs.field.evaluations - count)
        self.reached = ~trajectory.ys.isnan()
        self.kept = torch.where(self.reached, self.kept[:, : len(trajectory.ys)], 0.0)
        del self.state, self.like
        return trajectory.ys

    def pull_back(self, grad_ys: Tensor) -> list[Tensor | None]:
        """Cotangents of y0 and of every source: one product."""
        grads = torch.where(self.reached, grad_ys, 0.0).reshape(-1)
        products = self.kept.reshape(self.directions, -1) @ grads
        if bool(grads.isfinite().all()) and not bool(products.isfinite().all()):
            raise GradientError(
                "Forward: the sensitivities are not finite. The derivative of f is infinite somewhere on the way (a square root "
                "at zero), or the stages of an implicit step were not found again to rounding: use shorter steps or another solver"
            )
        by_y0, rest = products.split([self.of_y0, sum(self.sizes)])
        return [by_y0.view(grad_ys.shape[1:]) if self.of_y0 else None, *unpack(rest, self.inputs.sources)]

    # ---- one step -------------------------------------------------------------------------------------------------
    def _take(self, step: Any) -> None:
        """S at the start of an accepted step to S at its end, and at the observations in it."""
        step, field = self._located(step), self.inputs.field
        field.batch_args = self.problem.field.batch_args
        with torch.enable_grad():
            y = step.y.detach().requires_grad_()
            after, ks, scale = step.replay(field, self.solver, y, dense=step.interpolates)
            hk = torch.stack(ks) * scale if step.interpolates else y
            index, values = step.observations(visible(y, self.like), visible(after, self.like), hk)
            outputs = [after, values] if len(index) else [after]
            # A product with the transpose is linear in the vector: going back through it, to the vector, goes forwards.
            vectors = [self._random(x).requires_grad_() for x in outputs]
            back = torch.autograd.grad(
                outputs, [y, *self.inputs.sources], vectors, allow_unused=True, create_graph=True
            )
        start = step.start(self.state)
        ends = torch.empty_like(start)
        kept = self.kept.view(self.directions, -1, self.kept.shape[-1])
        for first in range(0, self.directions, self.at_once):
            chunk = slice(first, min(first + self.at_once, self.directions))
            ends[chunk], *inside = self._pushed(back, vectors, start, chunk)
            for part in inside:
                kept[chunk] = kept[chunk].index_copy(1, index, part)
        self.state = step.merge(self.state, ends)

    def _random(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=self.generator)

    def _pushed(
        self, back: Sequence[Tensor | None], vectors: list[Tensor], start: Tensor, chunk: slice
    ) -> list[Tensor]:
        """Some directions, at the start of a step `start`, taken through it: the change of each of its outputs."""
        pairs = [
            (g, v)
            for g, v in zip(back, [start[chunk], *self._directions(chunk)], strict=True)
            if g is not None and v is not None
        ]
        live = [(g, v) for g, v in pairs if g.requires_grad]
        grads = self._products([g for g, _ in live], vectors, [v for _, v in live])
        count = chunk.stop - chunk.start
        changes = [x.new_zeros(count, *x.shape) if g is None else g for g, x in zip(grads, vectors, strict=True)]
        # ⟨Jᵀu, v⟩ = ⟨u, Jv⟩: an operation that autograd differentiates once only would be missing from the right side.
        left = torch.stack([_dots(v, g) for g, v in pairs])
        right = torch.stack([_dots(x, u) for x, u in zip(changes, vectors, strict=True)])
        scale = torch.stack([_dots(v.abs(), g.abs()) for g, v in pairs]).sum(0)
        # Linear systems are solved with a matrix here, with its transpose there: their rounding is that of a stiff step.
        slack = torch.finfo(start.dtype).eps ** 0.5 if self.solver.tableau.explicit else 1e-3
        if bool(((left.sum(0) - right.sum(0)).abs() > slack * scale).any()):
            raise GradientError(f"{TWICE}; use gradient='checkpointed'")
        return changes

    def _products(
        self, products: list[Tensor], vectors: list[Tensor], directions: list[Tensor]
    ) -> Sequence[Tensor | None]:
        """The derivative of `products`, by `vectors`, along each of the directions."""
        options = {"retain_graph": True, "allow_unused": True}
        if self.batched:
            try:
                return torch.autograd.grad(products, vectors, directions, is_grads_batched=True, **options)
            except RuntimeError:  # an operation of f that knows no batches of cotangents
                self.batched = False
        try:
            columns = [
                torch.autograd.grad(products, vectors, list(v), **options) for v in zip(*directions, strict=True)
            ]
        except RuntimeError as error:
            raise GradientError(f"{TWICE} ({error}); use gradient='checkpointed'") from error
        return [None if c[0] is None else torch.stack(c) for c in zip(*columns, strict=True)]

    def _directions(self, chunk: slice) -> Iterator[Tensor | None]:
        """Those of every source: unit vectors; None where the chunk has none of its own."""
        offset = self.of_y0
        for x, size in zip(self.inputs.sources, self.sizes, strict=True):
            first, last = max(chunk.start, offset), min(chunk.stop, offset + size)
            if first >= last:
                yield None
            else:
                unit = real_view(x).new_zeros(chunk.stop - chunk.start, size)
                row = torch.arange(first, last, device=unit.device)
                unit[row - chunk.start, row - offset] = 1.0
                shape = (len(unit), *x.shape)
                yield torch.view_as_complex(unit.view(*shape, 2)) if x.is_complex() else unit.view(shape)
            offset += size

    def _located(self, step: Any) -> Any:
        """A step of samples with the observations inside it looked up: the loop itself does so some steps later."""
        if not isinstance(step, RowStep) or step.inner is None:
            return step
        ts = self.problem.ts.index_select(0, step.rows)
        t, t1 = step.t.unsqueeze(1), step.t1.unsqueeze(1)
        sample, column = (((ts - t) * (t1 - t) > 0) & ((ts - t1) * (t1 - t) <= 0)).nonzero(as_tuple=True)
        theta = ((ts - t) / (t1 - t))[sample, column].to(self.like.dtype)
        inner = Inner()
        weights = DenseStep.of(self.solver.tableau, self.like).weights(theta)
        inner.value = sample, column * self.batch + step.rows[sample], weights
        return step._replace(inner=inner)


def _dots(rows: Tensor, x: Tensor) -> Tensor:
    """The real inner product of x with each of the rows (P, *x.shape): (P,)."""
    flat = rows.reshape(len(rows), -1)
    if x.is_complex():
        return torch.view_as_real(flat).flatten(1) @ real_view(x.detach())
    return flat @ x.detach().reshape(-1)


class _Product(torch.autograd.Function):
    """(y0, args, parameters) -> ys."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, y0: Tensor, *tensors: Tensor) -> Tensor:
        ctx.plan = plan
        ys = plan.problem.field.shaped(plan.solve(y0.detach()))
        ctx.shape = (len(ys), *y0.shape)
        return ys

    @staticmethod
    @uncast
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        (grad_ys,) = cotangents
        if torch.is_grad_enabled():
            raise GradientError("Forward has no second derivatives; use gradient='checkpointed' or 'backprop'")
        return (None, *ctx.plan.pull_back(grad_ys.reshape(ctx.shape)))
