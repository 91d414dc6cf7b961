"""The augmented neural ODE: a flow in more dimensions than the data has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from isocline._types import Float, Tensor
from isocline.nn.neural_ode import NeuralODE
from isocline.solution import Solution


class AugmentedODE(NeuralODE):
    """x ↦ the solution of d[h; a]/dt = f(t, [h; a]) from h(t₀) = x, a(t₀) = 0.

    Trajectories of an ODE do not cross, so that a neural ODE can only move its inputs as a homeomorphism does: points of
    a line keep their order, a ring stays around what it encloses. With p more coordinates there is a way around.

    Args:
        field: `f(t, y, *args)` on the augmented state; `MLP((d + p, …, d + p))` for vectors.
        extra: p, coordinates (or channels) appended; 0 is a plain neural ODE. With an `input_layer` leave it out.
        initial: x ↦ the initial values of the appended coordinates, e.g. a network, of the shape of x with p along `dim`;
            None: zeros.
        input_layer: x ↦ the whole initial state, e.g. `nn.Linear(d, d + p)`, in place of `extra` and `initial`.
        dim: along which is appended: -1 for vectors (..., d), 1 or -3 for images (B, C, H, W).
        keep: "all": the augmented states. "original": the first d coordinates along `dim` alone.
        returns, **options: as of `NeuralODE`.

    Shapes:
        x (..., d, ...) -> (T, ..., d + p, ...), or (T, ..., d, ...) with keep="original"; without T for returns="end".

    Raises:
        ValueError: for a negative `extra`, an unknown `keep`, settings that exclude each other, a `dim` that x has not, an
            `initial` of a wrong shape.
        TypeError: when x is not a tensor.

    Source: Dupont, Doucet & Teh, Augmented Neural ODEs, NeurIPS 2019, section 4. A learned start: Massaroli et al.,
    Dissecting Neural ODEs, NeurIPS 2020, section 4 (input-layer augmentation).

    Example:
        >>> import torch
        >>> from isocline.nn import MLP, AugmentedODE
        >>> model = AugmentedODE(MLP((3, 16, 3)), extra=1, returns="end")
        >>> model(torch.ones(8, 2)).shape, model.augment(torch.ones(8, 2))[0]
        (torch.Size([8, 3]), tensor([1., 1., 0.]))
        >>> path = AugmentedODE(MLP((3, 16, 3)), extra=1, keep="original")(torch.ones(8, 2), torch.linspace(0, 1, 5))
        >>> path.shape
        torch.Size([5, 8, 2])
    """

    def __init__(
        self,
        field: Callable[..., Any],
        extra: int = 0,
        *,
        initial: Callable[[Tensor], Tensor] | None = None,
        input_layer: Callable[[Tensor], Tensor] | None = None,
        dim: int = -1,
        keep: str = "all",
        returns: str = "path",
        **options: Any,
    ) -> None:
        super().__init__(field, returns=returns, **options)
        if not isinstance(extra, int) or extra < 0:
            raise ValueError(f"AugmentedODE: extra={extra!r}, expected how many coordinates to append, 0 or more")
        if keep not in ("all", "original"):
            raise ValueError(f"AugmentedODE: keep={keep!r}, expected 'all' or 'original'")
        if input_layer is not None and (extra or initial is not None):
            raise ValueError("AugmentedODE: an input_layer makes the whole state: leave extra and initial out")
        if input_layer is not None and keep == "original":
            raise ValueError(
                "AugmentedODE: keep='original' with an input_layer, whose state has no original coordinates"
            )
        if initial is not None and not extra:
            raise ValueError("AugmentedODE: initial gives the appended coordinates: say how many with extra")
        self.extra, self.initial, self.input_layer, self.dim, self.keep = extra, initial, input_layer, dim, keep

    def augment(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """The initial state of an input."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"x: expected a tensor, got {type(x).__name__}; AugmentedODE appends along its dim={self.dim}"
            )
        if self.input_layer is not None:
            return self.input_layer(x)
        if not -x.dim() <= self.dim < x.dim():
            raise ValueError(f"x: shape {tuple(x.shape)} has no dim={self.dim} to append to")
        shape = list(x.shape)
        shape[self.dim] = self.extra
        more = x.new_zeros(shape) if self.initial is None else self.initial(x)
        if list(more.shape) != shape:
            raise ValueError(f"initial: returned shape {tuple(more.shape)}, expected {tuple(shape)}")
        return torch.cat([x, more], self.dim)

    def solution(self, y0: Any, ts: Any = (0.0, 1.0), *args: Any, **options: Any) -> Solution:
        """The whole `Solution` from the augmented input; `options` go over those of the model."""
        return super().solution(self.augment(y0), ts, *args, **options)

    def forward(self, y0: Any, ts: Any = (0.0, 1.0), *args: Any) -> Any:
        """The path or the end state of the augmented input; `args` go on to the field."""
        ys = super().forward(y0, ts, *args)
        if self.keep == "all":
            return ys
        dim = self.dim if self.dim < 0 else self.dim - y0.dim()  # counted from the end it is that of the path too
        return ys.narrow(dim, 0, y0.shape[dim])
