"""Two spirals that are not linear: the cubic one and the one with two centres."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.problems.problem import Problem


class _Cubic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y**3 @ self.matrix.to(y)


def cubic_spiral() -> Problem:
    """The cubic spiral dy/dt = y³ A (y a row, the cube componentwise), A = [[−0.1, 2], [−2, −0.1]].

    There is no closed form, but a symmetry: the field is homogeneous of degree 3, so with y(t) also c·y(c²t) is a
    solution. From (2, 0) the orbit turns fast at first and ever more slowly as it shrinks.

    Returns:
        The problem, from (2, 0) over [0, 25].

    Source: the demonstration ``ode_demo.py`` of R. T. Q. Chen's torchdiffeq (2018).

    >>> problem = cubic_spiral()
    >>> problem.field(torch.tensor(0.0), problem.y0)
    tensor([-0.8000, 16.0000], dtype=torch.float64)
    """
    return Problem(
        name="cubic spiral",
        field=_Cubic(),
        y0=torch.tensor([2.0, 0.0], dtype=torch.float64),
        t0=0.0,
        t1=25.0,
        labels=("x", "y"),
        units=("", ""),
        reference=torch.tensor([-0.443623486698694, 0.27944064161875587], dtype=torch.float64),
        source="torchdiffeq, examples/ode_demo.py (Chen, 2018)",
    )


class _TwoCentres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.tensor([-1.0, 0.0], dtype=torch.float64))
        self.register_buffer("near", torch.tensor([[-0.1, -0.5], [0.5, -0.1]], dtype=torch.float64))
        self.register_buffer("far", torch.tensor([[0.2, 1.0], [-1.0, 0.2]], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        c = self.centre.to(y)
        weight = torch.sigmoid(y @ c).unsqueeze(-1)
        return weight * ((y - c) @ self.near.to(y).mT) + (1 - weight) * ((y + c) @ self.far.to(y).mT)


def two_centre_spiral() -> Problem:
    """Two spirals glued by a sigmoid: dy/dt = s(y·c) A (y − c) + s(−y·c) B (y + c), s the logistic function.

    c = (−1, 0). On c's side A = [[−0.1, −0.5], [0.5, −0.1]] turns anticlockwise and pulls towards c, on the other
    side B = [[0.2, 1], [−1, 0.2]] turns clockwise and pushes away from −c; the orbit passes from one to the other.

    Returns:
        The problem, from (0.6, 0.3) over [0, 31.45].

    Source: M. Surtsukov, "Neural Ordinary Differential Equations" (2019), second example.

    >>> problem = two_centre_spiral()
    >>> problem.field(torch.tensor(0.0), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """
    return Problem(
        name="two-centre spiral",
        field=_TwoCentres(),
        y0=torch.tensor([0.6, 0.3], dtype=torch.float64),
        t0=0.0,
        t1=31.45,
        labels=("x", "y"),
        units=("", ""),
        reference=torch.tensor([-2.0715437993957457, -0.0879925917702896], dtype=torch.float64),
        source='M. Surtsukov, "Neural Ordinary Differential Equations" (2019)',
    )
