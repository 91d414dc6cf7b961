"""Operations that are made of instructions: reductions, activations, normalisations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from isocline.engines.fused.lanes import Lane


class Functions:
    """What the lowering of a field inherits: `_name(…)` is what becomes of `aten.name`, with its arguments.

    Example:
        >>> hasattr(Functions, "_gelu")
        True
    """

    def pointwise(self, op: str, *operands: Any) -> Lane:
        """An instruction on every number, broadcast."""
        raise NotImplementedError

    def _reduce(self, op: str, x: Any, dims: Any, keepdim: bool) -> Lane:
        """An instruction on groups of numbers."""
        raise NotImplementedError

    def _code(self, value: Any) -> Tensor:
        """Where the numbers of anything stand."""
        raise NotImplementedError

    def _sum(self, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Lane:
        return self._reduce("sum", x, dim, keepdim)

    def _mean(self, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Lane:
        out = self._reduce("sum", x, dim, keepdim)
        return self.pointwise("mul", out, out.code.numel() / self._code(x).numel())

    def _amax(self, x: Any, dim: Any = (), keepdim: bool = False) -> Lane:
        return self._reduce("max", x, dim, keepdim)

    def _amin(self, x: Any, dim: Any = (), keepdim: bool = False) -> Lane:
        return self.pointwise("neg", self._reduce("max", self.pointwise("neg", x), dim, keepdim))

    def _var(self, x: Any, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> Lane:
        centred = self.pointwise("sub", x, self._mean(x, dim, True))
        out = self._sum(self.pointwise("mul", centred, centred), dim, keepdim)
        count = x.code.numel() // out.code.numel()
        return self.pointwise("mul", out, 1 / (count - correction))

    def _cumsum(self, x: Any, dim: int, dtype: Any = None) -> Lane:
        return Lane(torch.stack([part.code for part in self._running("add", x, dim)], dim))

    def _cumprod(self, x: Any, dim: int, dtype: Any = None) -> Lane:
        return Lane(torch.stack([part.code for part in self._running("mul", x, dim)], dim))

    def _prod(self, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Lane:
        x, dim = (x, dim) if dim is not None else (Lane(self._code(x).reshape(-1)), 0)
        code = self._running("mul", x, dim)[-1].code
        return Lane(code.unsqueeze(dim) if keepdim else code)

    def _running(self, op: str, x: Any, dim: int) -> list[Lane]:
        """The first number along a dimension, the first two together, the first three, …"""
        parts = [Lane(part) for part in self._code(x).unbind(dim)]
        for i in range(1, len(parts)):
            parts[i] = self.pointwise(op, parts[i - 1], parts[i])
        return parts

    def _softmax(self, x: Any, dim: int, half: bool = False) -> Lane:
        e = self.pointwise("exp", self.pointwise("sub", x, self._amax(x, [dim], True)))
        return self.pointwise("div", e, self._sum(e, [dim], True))

    def _log_softmax(self, x: Any, dim: int, half: bool = False) -> Lane:
        x = self.pointwise("sub", x, self._amax(x, [dim], True))
        return self.pointwise("sub", x, self.pointwise("log", self._sum(self.pointwise("exp", x), [dim], True)))

    def _pow(self, x: Any, exponent: Any) -> Lane:
        if exponent in (0.5, -0.5):
            return self.pointwise("sqrt" if exponent > 0 else "rsqrt", x)
        if not isinstance(exponent, (int, float)) or exponent != int(exponent) or not 1 <= abs(exponent) <= 8:
            return self.pointwise("pow", x, exponent)
        # By products of squares, x³ = x² x: a few units in the last place, a tenth of the time.
        bits, power, out = abs(int(exponent)), x, None
        while bits:
            if bits & 1:
                out = power if out is None else self.pointwise("mul", power, out)
            bits >>= 1
            power = self.pointwise("mul", power, power) if bits else power
        assert out is not None
        return out if exponent > 0 else self.pointwise("reciprocal", out)

    def _relu(self, x: Any) -> Lane:
        return self.pointwise("maximum", x, 0.0)

    def _leaky_relu(self, x: Any, slope: float = 0.01) -> Lane:
        return self.pointwise("where", self.pointwise("gt", x, 0.0), x, self.pointwise("mul", x, slope))

    def _hardtanh(self, x: Any, low: float = -1.0, high: float = 1.0) -> Lane:
        return self._clamp(x, low, high)

    def _clamp(self, x: Any, min: Any = None, max: Any = None) -> Lane:
        x = x if min is None else self.pointwise("maximum", x, min)
        return x if max is None else self.pointwise("minimum", x, max)

    def _elu(self, x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Lane:
        inner = x if input_scale == 1 else self.pointwise("mul", x, input_scale)
        low = self.pointwise("mul", self.pointwise("expm1", self.pointwise("minimum", inner, 0.0)), alpha)
        out = self.pointwise("where", self.pointwise("gt", x, 0.0), x, low)
        return out if scale == 1 else self.pointwise("mul", out, scale)

    def _gelu(self, x: Any, approximate: str = "none") -> Lane:
        if approximate == "tanh":
            cube = self.pointwise("mul", self.pointwise("mul", x, x), x)
            inner = self.pointwise("add", x, self.pointwise("mul", cube, 0.044715))
            bent = self.pointwise("tanh", self.pointwise("mul", inner, math.sqrt(2 / math.pi)))
        else:
            bent = self.pointwise("erf", self.pointwise("mul", x, math.sqrt(0.5)))
        return self.pointwise("mul", self.pointwise("mul", x, 0.5), self.pointwise("add", bent, 1.0))

    def _softplus(self, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Lane:
        x = x if beta == 1 else self.pointwise("mul", x, beta)
        out = self.pointwise("softplus", x)
        return out if beta == 1 else self.pointwise("mul", out, 1 / beta)

    def _normalised(self, x: Any, dims: list[int], eps: float) -> tuple[Lane, Lane, Lane]:
        mean = self._mean(x, dims, True)
        centred = self.pointwise("sub", x, mean)
        var = self._mean(self.pointwise("mul", centred, centred), dims, True)
        rstd = self.pointwise("rsqrt", self.pointwise("add", var, eps))
        return self.pointwise("mul", centred, rstd), mean, rstd

    def _affine(self, x: Lane, weight: Any, bias: Any) -> Lane:
        x = x if weight is None else self.pointwise("mul", x, weight)
        return x if bias is None else self.pointwise("add", x, bias)

    def _native_layer_norm(self, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> list[Lane]:
        out, mean, rstd = self._normalised(x, list(range(-len(shape), 0)), eps)
        return [self._affine(out, weight, bias), mean, rstd]

    def _square(self, x: Any) -> Lane:
        return self.pointwise("mul", x, x)
