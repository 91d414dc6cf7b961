"""Random fields: an operation list drawn by hypothesis, whose every result is a tensor (B, n) that later ones may take.

Operations keep numbers of ordinary size and away from where a derivative is a matter of convention.
"""

import torch
from hypothesis import strategies
from torch import nn
from torch.nn import functional

STATES, OWN, COMMON = 3, 2, 3  # numbers of a state, of a sample's argument, of an argument of all


def bounded(x):
    return x / (1 + x.square()).sqrt()


UNARY = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "steep softplus": lambda x: functional.softplus(x, beta=3.0),
    "relu": torch.relu,
    "leaky": functional.leaky_relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "elu": functional.elu,
    "selu": functional.selu,
    "mish": functional.mish,
    "hardtanh": functional.hardtanh,
    "clamp": lambda x: x.clamp(-0.7, 0.9),
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": lambda x: torch.tan(bounded(x)),
    "atan": torch.atan,
    "erf": torch.erf,
    "abs": torch.abs,
    "exp": lambda x: torch.exp(bounded(x)),
    "expm1": lambda x: torch.expm1(bounded(x)),
    "log": lambda x: torch.log(x.square() + 0.5),
    "log1p": lambda x: torch.log1p(x.square()),
    "sinh": lambda x: torch.sinh(bounded(x)),
    "cosh": lambda x: torch.cosh(bounded(x)),
    "sqrt": lambda x: (x * x + 0.1).sqrt(),
    "rsqrt": lambda x: torch.rsqrt(x * x + 0.5),
    "reciprocal": lambda x: 1 / (x * x + 1),
    "square": lambda x: bounded(x).square(),
    "cube": lambda x: bounded(x) ** 3,
    "power": lambda x: (x.abs() + 0.5) ** -1.5,
    "exponent": lambda x: 2.0 ** bounded(x),
    "negative": torch.neg,
    "one minus": lambda x: 1 - x,
}
BINARY = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": lambda a, b: a * bounded(b),
    "divide": lambda a, b: a / (1 + b.square()),
    "maximum": lambda a, b: torch.maximum(a, b + 0.01),
    "minimum": lambda a, b: torch.minimum(a, 0.9 * b - 0.02),
    "angle": lambda a, b: torch.atan2(a, 2 + torch.sin(b)),
    "power of": lambda a, b: (a.abs() + 0.5) ** bounded(b),
    "where": lambda a, b: torch.where(a > 0.3 * b, a, b.sin()),
    "where both": lambda a, b: torch.where((a > 0.1) & (b < 0.2) | (b >= a), torch.sin(b), 0.5 * a),
    "lerp": lambda a, b: torch.lerp(a, b, torch.sigmoid(a)),
    "addcmul": lambda a, b: torch.addcmul(a, bounded(a), bounded(b), value=0.5),
}
MOVES = {
    "slice": lambda x, k: x[:, k % x.shape[1] :],
    "every other": lambda x, k: x[:, k % 2 % x.shape[1] :: 2],
    "flip": lambda x, k: x.flip(-1),
    "roll": lambda x, k: x.roll(k, -1),
    "pick": lambda x, k: x[:, [k % x.shape[1], 0, -1, k % x.shape[1]]],
    "halves": lambda x, k: torch.cat(x.chunk(2, -1)[::-1], -1),
    "repeat": lambda x, k: x.repeat(1, 2)[:, : 2 + k],
    "pad": lambda x, k: functional.pad(x, (1, 1), value=0.25),
    "transpose": lambda x, k: grid(x).transpose(1, 2).flatten(1),
    "diagonal": lambda x, k: (x.unsqueeze(1) * bounded(x).unsqueeze(2)).diagonal(dim1=1, dim2=2),
}
REDUCTIONS = {
    "sum": lambda x: x.sum(-1, keepdim=True),
    "mean": lambda x: x.mean(-1, keepdim=True),
    "largest": lambda x: (x + 0.01 * torch.arange(x.shape[1], dtype=x.dtype)).amax(-1, keepdim=True),
    "smallest": lambda x: (x + 0.01 * torch.arange(x.shape[1], dtype=x.dtype)).amin(-1, keepdim=True),
    "norm": lambda x: (x.square().sum(-1, keepdim=True) + 0.1).sqrt(),
    "log of exps": lambda x: torch.logsumexp(x, -1, keepdim=True),
    "variance": lambda x: x.var(-1, correction=0, keepdim=True),
    "of columns": lambda x: grid(x).sum(1),
    "less the mean": lambda x: x - x.mean(-1, keepdim=True),
    "running sum": lambda x: x.cumsum(-1),
    "product": lambda x: bounded(x)[:, :2].prod(-1, keepdim=True),
    "softmax": lambda x: torch.softmax(x, -1),
    "log softmax": lambda x: 0.3 * torch.log_softmax(x, -1),
    "normalised": lambda x: functional.layer_norm(x, (x.shape[1],), eps=0.1),
    "attention": lambda x: (torch.softmax(x.unsqueeze(2) * bounded(x).unsqueeze(1), -1) @ x.unsqueeze(2)).squeeze(2),
}
WEIGHTED = ("layer", "layer without bias", "scale", "shift", "batched product", "from the left", "weights of weights")
OTHERS = ("time beside", "times time", "wave", "own argument", "common argument", "cat", "gradient", "tangent", "trace")
NAMES = (*UNARY, *BINARY, *MOVES, *REDUCTIONS, *(2 * WEIGHTED), *OTHERS)
MOST = 8  # numbers of a result

operations = strategies.tuples(strategies.sampled_from(NAMES), *[strategies.integers(0, 5)] * 3)
fields = strategies.tuples(
    strategies.lists(operations, min_size=1, max_size=10), strategies.sampled_from(("bounded", "scaled", "tanh"))
)


def grid(x):
    """(B, n) as (B, 2, n // 2)."""
    return (x if x.shape[1] % 2 == 0 else torch.cat((x, x[:, :1]), 1)).unflatten(1, (2, -1))


def like(b, a):
    """b of the width of a."""
    width = a.shape[1]
    if b.shape[1] in (1, width):
        return b
    return b[:, :width] if b.shape[1] > width else torch.cat((b, b[:, :1].expand(-1, width - b.shape[1])), 1)


class RandomField(nn.Module):
    """dy/dt = f(t, y, u, v, c): u (B, OWN) of each sample, v (COMMON,) and c (0-d) of all."""

    def __init__(self, drawn, dtype=torch.float64):
        super().__init__()
        self.operations, self.end = drawn
        self.weights = nn.ParameterDict()
        generator = torch.Generator().manual_seed(0)
        example = [torch.zeros(shape) for shape in ((2, 1), (2, STATES), (2, OWN), (COMMON,), ())]
        self.missing = lambda shape: nn.Parameter(torch.randn(shape, generator=generator) / max(1, shape[-1]) ** 0.5)
        self(*example)
        self.missing = None
        self.to(dtype)

    def weight(self, k, *shape):
        """One of this shape; operations of the same k share it."""
        name = f"{k % 3}:{'x'.join(map(str, shape))}"
        if name not in self.weights:
            self.weights[name] = self.missing(shape)
        return self.weights[name]

    def weighted(self, name, x, k):
        n, m = x.shape[1], 1 + k
        if name == "layer":
            return functional.linear(x, self.weight(k, m, n), self.weight(k, m))
        if name == "layer without bias":
            return x @ self.weight(k, n, m)
        if name == "scale":
            return x * self.weight(k, n)
        if name == "shift":
            return x + self.weight(k, n)[: 1 if k % 2 else n]
        if name == "batched product":
            return (x.unsqueeze(1) * self.weight(k, m, n)).sum(-1)
        if name == "from the left":
            return (self.weight(k, m, n) @ x.T).T
        w = self.weight(k, n, n)
        return x @ torch.matrix_exp(0.3 * (w - w.T))

    def inner(self, x, k):
        """A function (B, n) -> (B, 2) of x, to be differentiated."""
        hidden = torch.tanh(functional.linear(x, self.weight(k, 3, x.shape[1]), self.weight(k, 3)))
        return torch.sin(hidden @ self.weight(k, 3, 2))

    def derivative(self, name, x, k):
        if self.missing:  # no parameter is made inside a transform
            self.inner(x, k)
        if name == "tangent":
            return torch.func.jvp(lambda z: self.inner(z, k), (x,), (torch.cos(x),))[1]
        # A slice that was taken without a graph may claim to have one.
        x = x if x.requires_grad and torch.is_grad_enabled() else x.detach().requires_grad_()
        with torch.enable_grad():
            found = self.inner(x, k)
            if name == "gradient":
                return torch.autograd.grad(found.square().sum(), x, create_graph=True)[0]
            parts = [torch.autograd.grad(found[:, i].sum(), x, create_graph=True)[0] for i in range(2)]
            return torch.cat((found[:, :1], sum(p[:, i % p.shape[1]] for i, p in enumerate(parts)).unsqueeze(1)), 1)

    def result(self, name, k, a, b, t, u, v, c):
        if name in UNARY:
            return UNARY[name](a)
        if name in BINARY:
            return BINARY[name](a, like(b, a))
        if name in MOVES:
            return MOVES[name](a, k)
        if name in REDUCTIONS:
            return REDUCTIONS[name](a)
        if name in WEIGHTED:
            return self.weighted(name, a, k)
        if name == "cat":
            return torch.cat((a, b), 1)
        if name == "time beside":
            return torch.cat((a, t.expand(len(a), 1)), 1)
        if name == "times time":
            return a * t + c
        if name == "wave":
            return torch.sin((1 + k) * t + a) * torch.cos(t)
        if name == "own argument":
            return a * like(torch.sin(u), a)
        if name == "common argument":
            return a + v[k % COMMON] * b[:, :1] + v[:1] * c
        return self.derivative(name, a, k)

    def forward(self, t, y, u, v, c):
        pool = [y]
        for name, i, j, k in self.operations:
            # The newest, or an older one.
            a, b = pool[-1 - i % len(pool) // 2], pool[j % len(pool)]
            pool.append(self.result(name, k, a, b, t, u, v, c)[:, :MOST])
        x = pool[-1]
        x = torch.cat((x, *pool[-2::-1]), 1)[:, :STATES]
        if self.end == "tanh":
            return torch.tanh(x) - 0.2 * y
        if self.end == "scaled":
            return x / (1 + x.square().sum(-1, keepdim=True) / 4)
        return bounded(x)
