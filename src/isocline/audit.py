"""Is this gradient right? One call that compares it with backpropagation and finite differences on your own model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isocline.gradients.base import reachable
from isocline.solve import solve

Loss = Callable[[Any], Tensor]


@dataclass
class Audit:
    """The table of `gradients`.

    Attributes:
        names: of the quantities differentiated: "y0", parameters, "ts".
        errors: name -> {"backprop": e, "finite differences": e, "spread": e}: relative differences of the gradient in
            use from the two others, and of those two from each other (what finite differences can resolve here).
        reconstruction: relative error of t0 → t1 → t0.
        largest: the worst relative difference from backpropagation.
        note: why the gradient in use could not be had, if so.

    Example:
        >>> Audit(errors={}, reconstruction=1e-9, largest=0.0).trustworthy
        True
    """

    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    reconstruction: float = 0.0
    largest: float = 0.0
    method: str = ""
    note: str = ""

    @property
    def trustworthy(self) -> bool:
        """No difference above 1 %, and a gradient at all."""
        return not self.note and self.largest <= 1e-2

    def __str__(self) -> str:
        head = f"{'gradient of':<24}{'vs backprop':>14}{'vs fin. diff.':>15}{'those two':>12}"
        lines = [f"audit of gradient={self.method!r}: relative differences", head]
        for name, row in self.errors.items():
            lines.append(f"{name:<24}{row['backprop']:>14.1e}{row['finite differences']:>15.1e}{row['spread']:>12.1e}")
        lines.append(f"reconstruction t0 -> t1 -> t0: {self.reconstruction:.1e} of the trajectory's scale")
        if self.note:
            lines.append(self.note)
        else:
            lines.append(
                "this gradient agrees"
                if self.trustworthy
                else "this gradient is NOT to be trusted: use gradient='checkpointed'"
            )
        return "\n".join(lines)


def gradients(
    model: Callable[..., Any],
    y0: Any,
    ts: Any,
    loss: Loss | None = None,
    *,
    directions: int = 2,
    seed: int = 0,
    **options: Any,
) -> Audit:
    """Compares the gradient in use with backpropagation and with finite differences.

    Args:
        model: a field `f(t, y, *args)`, or a `NeuralODE`, whose options are then the ones audited.
        y0, ts: as for `solve`.
        loss: from `ys` to a 0-d tensor; None: a fixed random weighting of all observations.
        directions: random directions a quantity is probed in by central finite differences.
        seed: of the weighting and the directions.
        **options: of `solve`; `gradient` is what is audited.

    Returns:
        An `Audit`; print it.

    Finite differences are taken in the states' own dtype, so their resolution is about eps^(2/3): in float32 expect
    1e-2 in the column "those two", and audit a double-precision copy of the model for more.

    Example:
        >>> import torch, isocline
        >>> from isocline import audit
        >>> field = isocline.nn.MLP((2, 8, 2), dtype=torch.float64)
        >>> y0 = torch.ones(3, 2, dtype=torch.float64)
        >>> audit.gradients(field, y0, [0.0, 1.0], gradient="backsolve").trustworthy
        True
    """
    from isocline.nn import NeuralODE

    if isinstance(model, NeuralODE):
        options = {**model.options, **options}
        model = model.field
    generator = torch.Generator().manual_seed(seed)
    times = ts.detach().clone() if isinstance(ts, Tensor) else torch.tensor(ts, dtype=torch.float64)
    start = pytree.tree_map(lambda leaf: leaf.detach().clone(), y0)
    weighting = loss or _random_loss(generator)
    inputs = _named(model, start, times)
    gradient = options.pop("gradient", "checkpointed")

    def value(**change: Any) -> Tensor:
        return weighting(solve(model, start, times, **{**options, **change}).ys)

    reference = _grads(value(gradient="backprop"), inputs)
    result = Audit(method=gradient if isinstance(gradient, str) else type(gradient).__name__)
    result.reconstruction = reconstruction(model, start, times, **options)
    try:
        used = _grads(value(gradient=gradient), inputs)
    except RuntimeError as error:
        result.note = f"it was refused: {error}"
        return result
    for name, tensor in inputs.items():
        row = _compare(tensor, used[name], reference[name], value, directions, generator)
        result.errors[name] = row
        result.largest = max(result.largest, row["backprop"])
    return result


def reconstruction(model: Callable[..., Any], y0: Any, ts: Any, **options: Any) -> float:
    """Relative error of integrating from t0 to t1 and back again: ‖y0' − y0‖ / the trajectory's scale.

    Where it is not small, what is computed is not the flow of the field (in the sense of a reversible ODE), and
    `Backsolve` gradients are not to be trusted. `inf` where the way back cannot be integrated at all.

    Args:
        model: a field or a `NeuralODE`.
        y0, ts: as for `solve`; only the first and the last time count.
        **options: of `solve`.

    Example:
        >>> import torch
        >>> from isocline import audit
        >>> audit.reconstruction(lambda t, y: -y, torch.ones(2, dtype=torch.float64), [0.0, 1.0]) < 1e-5
        True
    """
    from isocline.nn import NeuralODE

    if isinstance(model, NeuralODE):
        options = {**model.options, **options}
        model = model.field
    options = {k: v for k, v in options.items() if k not in ("gradient", "dense", "progress")}
    times = torch.as_tensor(ts).detach().double()
    with torch.no_grad():
        there = solve(model, y0, times, **options)
        if times.dim() == 2:
            last = (~times.isnan()).sum(1, keepdim=True) - 1
            way = torch.cat([times.gather(1, last), times[:, :1]], 1)
            end = pytree.tree_map(lambda leaf: leaf[last.squeeze(1), torch.arange(len(last))], there.ys)
        else:
            way = times[[-1, 0]]
            end = pytree.tree_map(lambda leaf: leaf[-1], there.ys)
        back = solve(model, end, way, throw=False, **options)
        miss = _flat(pytree.tree_map(lambda a, b: a[-1] - b, back.ys, y0))
        scale = _flat(there.ys).nan_to_num(0.0).abs().max().clamp(min=1e-30)
    worst = float(miss.square().mean().sqrt() / scale)
    return worst if worst == worst else float("inf")


def _flat(y: Any) -> Tensor:
    leaves = [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in pytree.tree_leaves(y)]
    return torch.cat([leaf.reshape(-1).double() for leaf in leaves])


def _random_loss(generator: torch.Generator) -> Loss:
    seed = int(torch.randint(1 << 30, (), generator=generator))

    def loss(ys: Any) -> Tensor:
        weights = torch.Generator().manual_seed(seed)
        total = None
        for leaf in pytree.tree_leaves(ys):
            real = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
            weight = torch.randn(real.shape, generator=weights, dtype=torch.float64).to(real)
            part = (real.nan_to_num(0.0) * weight).sum()
            total = part if total is None else total + part
        assert total is not None
        return total

    return loss


def _named(model: Any, y0: Any, ts: Tensor) -> dict[str, Tensor]:
    """What is differentiated, all leaves that require grad."""
    leaves = pytree.tree_leaves(y0)
    named = {("y0" if len(leaves) == 1 else f"y0[{i}]"): leaf.requires_grad_() for i, leaf in enumerate(leaves)}
    if isinstance(model, nn.Module):
        named.update((name, p) for name, p in model.named_parameters() if p.requires_grad)
    known = {id(t) for t in named.values()}
    others = [t for t in reachable(model) if t.requires_grad and t.is_leaf and id(t) not in known]
    named.update((f"captured tensor {i}", t) for i, t in enumerate(others))
    named["ts"] = ts.requires_grad_()
    return named


def _grads(loss: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    grads = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return {n: torch.zeros_like(x) if g is None else g for (n, x), g in zip(inputs.items(), grads, strict=True)}


def _compare(
    x: Tensor, used: Tensor, reference: Tensor, value: Callable[[], Tensor], directions: int, generator: torch.Generator
) -> dict[str, float]:
    """Relative differences of one quantity's gradient."""
    size = float(reference.abs().square().sum().sqrt())
    difference = float((used - reference).abs().square().sum().sqrt()) / max(size, 1e-30)
    by_used, by_reference = 0.0, 0.0
    eps = torch.finfo(x.dtype).eps ** (1 / 3)
    for _ in range(directions):
        v = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        h = eps * max(1.0, float(x.detach().abs().max())) / max(1.0, float(v.abs().max()))
        slope = _central(x, v, h, value)
        scale = max(abs(slope), float((reference.conj() * v).sum().real.abs()), 1e-30)
        by_used = max(by_used, abs(float((used.conj() * v).sum().real) - slope) / scale)
        by_reference = max(by_reference, abs(float((reference.conj() * v).sum().real) - slope) / scale)
    return {"backprop": difference, "finite differences": by_used, "spread": by_reference}


def _central(x: Tensor, v: Tensor, h: float, value: Callable[[], Tensor]) -> float:
    """(L(x + h v) − L(x − h v)) / 2h, x changed in place and put back."""
    kept = x.detach().clone()
    with torch.no_grad():
        try:
            x.copy_(kept + h * v)
            above = float(value())
            x.copy_(kept - h * v)
            below = float(value())
        finally:
            x.copy_(kept)
    return (above - below) / (2 * h)
