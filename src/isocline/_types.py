"""Shapes in annotations. jaxtyping reads them where it is installed (the tests check them with it); the core needs torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int
else:
    try:
        from jaxtyping import Float, Int
    except ImportError:

        class _Named:
            """Stands in: `Float[Tensor, "batch n"]` is a Tensor."""

            def __getitem__(self, item: Any) -> type[Tensor]:
                return Tensor

        Float = Int = _Named()

__all__ = ["Float", "Int", "Tensor"]
