"""What the experiments with flows share: how they are solved in training, and densities on a square."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor

from isocline.experiments.lab.pictures import bare

# With few fixed steps a flow learns the solver's errors, and scores below the entropy; quick runs are too short for that.
TRAINING: dict[str, Any] = {"solver": "tsit5", "rtol": 1e-4, "atol": 1e-4}
COARSE: dict[str, Any] = {"solver": "rk4", "step": 0.25}


def show(axes: Axes, values: Tensor, edge: float) -> None:
    """A function on the square [-edge, edge]², (n, n) or (n²,), the second coordinate upwards.

    The brightest colour stands for its 99.5th percentile.
    """
    cells = math.isqrt(values.numel())
    values = values.float().reshape(cells, cells)
    top = float(torch.quantile(values.flatten(), 0.995)) or 1.0
    extent = (-edge, edge, -edge, edge)
    axes.imshow(values, origin="lower", extent=extent, cmap="plasma", vmin=0, vmax=top, interpolation="bilinear")
    bare(axes)


def histogram(axes: Axes, x: Tensor, edge: float, bins: int = 100) -> None:
    """Where points (n, 2) lie."""
    show(axes, torch.histogramdd(x.double().cpu(), bins, range=[-edge, edge, -edge, edge]).hist.T, edge)
