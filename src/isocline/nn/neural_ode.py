"""The neural ODE as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from isocline.solution import Solution
from isocline.solve import solve


class NeuralODE(nn.Module):
    """y0 ↦ the solution of dy/dt = f(t, y, θ), as a module.

    Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural Ordinary Differential Equations, NeurIPS 2018.

    Args:
        field: `f(t, y, *args)`; a module's parameters become this module's.
        returns: "path": the states at all times, (T, *y0.shape). "end": the last one, as an ODE block in a network.
        **options: everything `isocline.solve` takes: `solver`, `gradient`, `rtol`, `step`, `batching`, …; here engine="auto"
            and batching=None where nothing else is said: the fused engine where it takes the field.

    Attributes:
        stats: of the last call; its backward count fills in with `backward()`.

    Raises:
        ValueError: for an unknown `returns`; what `solve` raises, when called.

    Example:
        >>> import torch
        >>> from isocline.nn import MLP, NeuralODE
        >>> model = NeuralODE(MLP((2, 16, 2)), gradient="backsolve", rtol=1e-4)
        >>> path = model(torch.ones(8, 2), torch.linspace(0, 1, 5))
        >>> path.square().mean().backward()
        >>> path.shape, NeuralODE(MLP((2, 16, 2)), returns="end")(torch.ones(8, 2)).shape
        (torch.Size([5, 8, 2]), torch.Size([8, 2]))
    """

    def __init__(self, field: Callable[..., Any], *, returns: str = "path", **options: Any) -> None:
        super().__init__()
        if returns not in ("path", "end"):
            raise ValueError(f"NeuralODE: returns={returns!r}, expected 'path' or 'end'")
        self.field = field
        self.returns = returns
        self.options = options
        self.stats: Any = None

    def solution(self, y0: Any, ts: Any = (0.0, 1.0), *args: Any, **options: Any) -> Solution:
        """The whole `Solution`; `options` go over those of the model."""
        given: dict[str, Any] = {"engine": "auto", "batching": None, **self.options, **options}
        solution = solve(self.field, y0, ts, args=args, **given)
        if not torch.compiler.is_compiling():  # a graph has no counts
            self.stats = solution.stats
        return solution

    def forward(self, y0: Any, ts: Any = (0.0, 1.0), *args: Any) -> Any:
        """The path (T, *y0.shape) or the end state; `args` go on to the field."""
        ys = self.solution(y0, ts, *args).ys
        if self.returns == "path":
            return ys
        return ys[-1] if isinstance(ys, Tensor) else pytree.tree_map(lambda leaf: leaf[-1], ys)
