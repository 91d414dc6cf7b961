"""What a training loop costs beside the solve: writes loop.md.

python benchmarks/loop.py

The loop of torchdiffeq's demonstration (2-50-2 on y³, batches of 20 pieces of 10 points) as one would write it with isocline,
with PyTorch's plain Adam and with its fused one; processor time of every part, medians.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import time
from pathlib import Path

import torch
from common import median, origin, table
from fused_demo import BATCH, PIECE, Net, data
from torch import Tensor

from isocline.nn import NeuralODE

PARTS = "batch", "solve", "loss", "backward", "optimizer"
STEPS, WARM = 600, 100


def train(fused: bool) -> dict[str, list[float]]:
    """Seconds of the parts of every iteration."""
    ts, states = data()
    model = NeuralODE(Net(), rtol=1e-6, atol=1e-8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    generator = torch.Generator().manual_seed(0)
    offsets = torch.arange(PIECE).unsqueeze(1)
    window = ts[:PIECE]
    found: dict[str, list[float]] = {name: [] for name in PARTS}
    for _ in range(STEPS):
        marks = [time.process_time()]
        start = torch.randint(len(states) - PIECE, (BATCH,), generator=generator)
        want: Tensor = states[start + offsets]
        optimizer.zero_grad(set_to_none=True)
        marks.append(time.process_time())
        path = model(want[0], window)
        marks.append(time.process_time())
        loss = (path - want).abs().mean()
        marks.append(time.process_time())
        loss.backward()
        marks.append(time.process_time())
        optimizer.step()
        marks.append(time.process_time())
        for name, begun, ended in zip(PARTS, marks, marks[1:], strict=False):
            found[name].append(ended - begun)
    return {name: seconds[WARM:] for name, seconds in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for fused in (False, True):
        middle = {name: 1e6 * median(seconds) for name, seconds in train(fused).items()}
        ours = middle["solve"] + middle["backward"]
        rest = sum(middle.values()) - ours
        rows.append(["fused" if fused else "plain", *(f"{middle[name]:.0f}" for name in PARTS), f"{rest / ours:.2f}"])
    head = ["Adam", *(f"{name}, µs" for name in PARTS), "all but solve and backward, of these"]
    text = (__doc__ or "").split("\n\n", 2)[2]
    page = f"# A training loop\n\n{origin()}\n{text}\n{table(head, rows)}"
    Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")
    print(table(head, rows))


if __name__ == "__main__":
    main()
