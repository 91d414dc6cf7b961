"""Fields of three numbers, with parameters `w` (3, 3) and `b` (3,) at hand: what a tile program can be made of."""

import torch
from torch import nn
from torch.nn import functional

from isocline.nn import MLP

F64 = torch.float64


def random(*shape, seed=0):
    """Normal numbers in double precision."""
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A network of (B, 2) driven by the time and by the sums of whatever else it is handed."""

    def __init__(self):
        super().__init__()
        self.mlp = MLP((2, 8, 2), seed=3, dtype=F64)

    def forward(self, t, y, *args):
        return 2 * self.mlp(t, y) + torch.sin(3 * t) + sum(x.flatten(1).sum(1, keepdim=True) for x in args)


class Field(nn.Module):
    """A function with parameters `w` (3, 3) and `b` (3,) at hand."""

    def __init__(self, function):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.w = nn.Parameter(torch.randn(3, 3, generator=generator, dtype=F64))
        self.b = nn.Parameter(torch.randn(3, generator=generator, dtype=F64))
        self.function = function

    def forward(self, t, y, *u):
        return self.function(self, t, y, *u)


def lorenz(_, t, y):
    a, b, c = y.unbind(-1)
    return torch.stack((10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c), -1)


def hamiltonian(self, t, y):
    """Autograd inside."""
    x = y if y.requires_grad else y.detach().requires_grad_()
    with torch.enable_grad():
        energy = torch.tanh(x[:, :3] @ self.w + self.b).square().sum()
        (g,) = torch.autograd.grad(energy, x, create_graph=True)
    return g


def half_square(self, t, y):
    """Autograd inside, which begins with a number."""
    x = y if y.requires_grad else y.detach().requires_grad_()
    with torch.enable_grad():
        (g,) = torch.autograd.grad((x * self.b).square().sum() / 2, x, create_graph=True)
    return g


def with_trace(self, t, y):
    """A flow and its exact trace, by autograd."""
    x = y if y.requires_grad else y.detach().requires_grad_()
    with torch.enable_grad():
        f = torch.tanh(x @ self.w + t * self.b)
        trace = sum(torch.autograd.grad(f[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
    return torch.cat((f[:, :2], -trace[:, None]), 1)


def product(self, t, y):
    """A derivative along a direction, forward mode."""
    return torch.func.jvp(lambda x: torch.sin(x @ self.w), (y,), (torch.ones_like(y),))[1]


FIELDS = {
    "linear": lambda s, t, y: y @ s.w,
    "linear, from the left": lambda s, t, y: (s.w @ y.T).T,
    "affine": lambda s, t, y: functional.linear(y, s.w, s.b),
    "einsum": lambda s, t, y: torch.einsum("ij,bj->bi", s.w, y),
    "Lorenz": lorenz,
    "autograd inside": hamiltonian,
    "autograd inside, of a half": half_square,
    "exact trace": with_trace,
    "forward mode inside": product,
    "time": lambda s, t, y: torch.sin(3 * t) * y + torch.cos(t),
    "powers": lambda s, t, y: y**3 + y.abs() ** 1.5 + 2.0**y + (y * y + 1) ** -0.5,
    "functions": lambda s, t, y: torch.exp(-y) + torch.log1p(y * y) + torch.atan(y) + torch.sinh(0.3 * y) + torch.tan(0.1 * y),
    "where": lambda s, t, y: torch.where(y > t, y.abs(), y.sin()),
    "maximum of equals": lambda s, t, y: torch.maximum(y, y.roll(1, -1).roll(-1, -1)) + torch.minimum(y * s.b, s.b * y),
    "largest of equals": lambda s, t, y: y * torch.cat((y, y.roll(1, -1), y[:, :1]), 1).amax(1, keepdim=True),
    "clamp": lambda s, t, y: y.clamp(-0.5, 0.5) + torch.maximum(y, s.b) + torch.minimum(y, t),
    "pieces": lambda s, t, y: torch.cat((y[:, 1:], y[:, :1] * 2), 1).flip(-1).roll(1, -1)[:, [0, 2, 2]],
    "zeros beside": lambda s, t, y: torch.cat((y[:, :2], torch.zeros(len(y), 1, dtype=F64)), 1),
    "parameters beside": lambda s, t, y: torch.cat((y[:, :2], s.b[:1].expand(len(y), 1)), 1),
    "padding": lambda s, t, y: functional.pad(y[:, :2], (0, 1), value=0.5),
    "functions of padding": lambda s, t, y: torch.sin(functional.pad(y[:, :1], (1, 1), value=0.5) * s.b),
    "sums of padding": lambda s, t, y: functional.pad(y, (3, 0), value=0.5).unflatten(1, (3, 2)).square().sum(2),
    "products of padding": lambda s, t, y: (functional.pad(y, (3, 0), value=0.5).unflatten(1, (2, 3)) @ s.w).sum(1),
    "views of what lies otherwise": lambda s, t, y: (torch.stack((y, y * t)).transpose(0, 1).flatten(1)[:, 1:4] * s.w[0]).view(-1, 3),
    "reductions": lambda s, t, y: y - y.mean(-1, keepdim=True) + y.square().sum(-1, keepdim=True).sqrt() + y.amax(-1, keepdim=True),
    "standardised": lambda s, t, y: (y - y.mean(-1, keepdim=True)) / y.std(-1, keepdim=True),
    "running sum": lambda s, t, y: y.cumsum(-1) * s.b,
    "running product": lambda s, t, y: y.cumprod(-1) + y.prod(-1, keepdim=True) * s.b,
    "softmax": lambda s, t, y: torch.softmax(y @ s.w, -1) + torch.log_softmax(y, -1),
    "layer norm": lambda s, t, y: functional.layer_norm(y, (3,), s.b, s.w[0]),
    "attention": lambda s, t, y: (torch.softmax(y[:, :, None] * y[:, None, :], -1) @ y[:, :, None]).squeeze(-1),
    "products of samples' own matrices": lambda s, t, y: (y[:, :, None] * s.w).matmul(y[:, :, None]).squeeze(-1),
    "weights from parameters": lambda s, t, y: y @ torch.matrix_exp(s.w - s.w.T).abs().sqrt(),
    "gated": lambda s, t, y: torch.sigmoid(t * s.b) * functional.linear(y, s.w) + t * s.b,
    "atan2": lambda s, t, y: torch.atan2(y, y.roll(1, -1) + 2),
    "nothing": lambda s, t, y: torch.zeros_like(y),
}  # fmt: skip
ACTIVATIONS = [
    nn.ReLU(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.ELU(), nn.SELU(), nn.CELU(), nn.Softplus(), nn.Softplus(2.0), nn.Tanh(),
    nn.LeakyReLU(), nn.Sigmoid(), nn.Hardtanh(), nn.Mish(), nn.Softsign(), nn.LogSigmoid(), nn.Tanhshrink(), nn.ReLU6(),
]  # fmt: skip
FIELDS |= {str(a): lambda s, t, y, a=a: a(y @ s.w) for a in ACTIVATIONS}
