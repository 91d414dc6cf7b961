"""Networks for digits: those of Chen et al. (2018, section 3) as `odenet_mnist` of torchdiffeq builds them.

    stem: 28 × 28 × 1 -> 6 × 6 × 64      Conv 3; GN ReLU Conv 4 stride 2; GN ReLU Conv 4 stride 2
    middle, one of                       six residual blocks; one; an ODE block
    head                                 GN ReLU, mean over the plane, Linear 64 -> 10

GN is GroupNorm (Wu & He 2018): BatchNorm inside a vector field would couple the images of a batch and count every
evaluation of the field as another batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocline.nn import NeuralODE


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or as many as there are channels."""
    return nn.GroupNorm(min(32, channels), channels)


def stem(channels: int = 64) -> nn.Sequential:
    """Digits (B, 1, 28, 28) -> (B, channels, 6, 6)."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3),
        group_norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 4, stride=2, padding=1),
        group_norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 4, stride=2, padding=1),
    )


def head(channels: int = 64, classes: int = 10) -> nn.Sequential:
    """(B, channels, H, W) -> logits (B, classes)."""
    return nn.Sequential(
        group_norm(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


class ResBlock(nn.Module):
    """y + Conv ReLU GN Conv ReLU GN y, the pre-activation block of He et al. (2016), 3 × 3, without biases.

    Shapes:
        (B, channels, H, W) -> the same.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        """y + f(y)."""
        slope = self.conv1(functional.relu(self.norm1(y)))
        return y + self.conv2(functional.relu(self.norm2(slope)))


class TimeConv(nn.Module):
    """A 3 × 3 convolution of [t, y]: the time as one more channel, constant over the plane.

    Computed as Conv y + t · Conv 1: the channel of time is the same for all images, so its convolution is done once and
    not for each. Weights are drawn as for the convolution of channels + 1.

    Shapes:
        t 0-d, y (B, channels, H, W) -> (B, channels, H, W).
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.space = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        bound = (9 * (channels + 1)) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Conv [t, y]."""
        return self.space(y) + self.time(t.expand(1, 1, *y.shape[2:]))


class ConvField(nn.Module):
    """dy/dt = GN Conv [t, ReLU GN Conv [t, ReLU GN y]].

    Args:
        channels: of the state.
        activation: in the place of ReLU. The adjoint's right-hand side jumps wherever a ReLU switches.

    Shapes:
        t 0-d, y (B, channels, H, W) -> (B, channels, H, W).
    """

    def __init__(self, channels: int = 64, activation: Callable[[Tensor], Tensor] = functional.relu) -> None:
        super().__init__()
        self.activation = activation
        self.norm1, self.norm2, self.norm3 = (group_norm(channels) for _ in range(3))
        self.conv1, self.conv2 = TimeConv(channels), TimeConv(channels)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        hidden = self.conv1(t, self.activation(self.norm1(y)))
        return self.norm3(self.conv2(t, self.activation(self.norm2(hidden))))


def res_net(blocks: int, channels: int = 64) -> nn.Sequential:
    """Stem, residual blocks, head: digits (B, 1, 28, 28) -> logits (B, 10)."""
    return nn.Sequential(stem(channels), *(ResBlock(channels) for _ in range(blocks)), head(channels))


class ODENet(nn.Module):
    """Stem, one ODE block over [0, 1], head: digits (B, 1, 28, 28) -> logits (B, 10).

    Args:
        channels: of the block.
        **options: of `isocline.solve`.

    Example:
        >>> net = ODENet(8, solver="rk4", step=0.5)
        >>> net(torch.zeros(2, 1, 28, 28)).shape, net.block.stats.evaluations
        (torch.Size([2, 10]), 8)
    """

    def __init__(self, channels: int = 64, **options: object) -> None:
        super().__init__()
        self.stem, self.head = stem(channels), head(channels)
        self.block = NeuralODE(ConvField(channels), returns="end", **options)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.block(self.stem(x)))


def mlp() -> nn.Sequential:
    """784-300-10, ReLU: the network with one hidden layer of LeCun et al. (1998)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))


def size(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(p.numel() for p in model.parameters())


def pixels(images: Tensor) -> Tensor:
    """(B, 28, 28) uint8 -> (B, 1, 28, 28), mean 0 and spread 1 over all digits of MNIST."""
    return (images[:, None].float() / 255 - 0.1307) / 0.3081


def crop(x: Tensor, padding: int = 4) -> Tensor:
    """Every image shifted by up to `padding` pixels each way, what comes in is background: the least value of `x`.

    Args:
        x: (B, 1, H, W).

    Example:
        >>> x = torch.zeros(3, 1, 5, 5)
        >>> x[:, :, 2, 2] = 1.0
        >>> crop(x, 2).sum((1, 2, 3)).tolist()
        [1.0, 1.0, 1.0]
    """
    batch, _, height, width = x.shape
    wide = functional.pad(x, (padding,) * 4, value=float(x.min()))
    shift = torch.randint(2 * padding + 1, (2, batch, 1)).to(x.device)  # the same crops on every device
    here = {"device": x.device}
    rows, columns = shift[0] + torch.arange(height, **here), shift[1] + torch.arange(width, **here)
    return wide[torch.arange(batch, **here)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
