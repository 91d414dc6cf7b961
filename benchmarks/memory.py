"""Memory of a gradient against the number of steps, for every way back: writes memory.md.

python benchmarks/memory.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchdiffeq
from common import origin, table
from torch import Tensor, nn

import isocline as ic
from isocline.experiments.lab.live_bytes import LiveBytes

BATCH, WIDTH, HIDDEN = 64, 16, 64
BUDGET_STATES = 10
STATE = BATCH * WIDTH * 4  # bytes, float32


class Field(nn.Module):
    """16-64-16, tanh; turns the state and damps it."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner, self.outer = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(parameter.shape) ** 0.5)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(y)))


Way = Callable[[nn.Module, Tensor, int], tuple[Tensor, Any]]


def isocline_way(gradient: Any, solver: Any = "rk4_three_eighths") -> Way:
    def run(f: nn.Module, y0: Tensor, steps: int) -> tuple[Tensor, Any]:
        solution = ic.solve(f, y0, [0.0, 1.0], solver=solver, step=1.0 / steps, gradient=gradient)
        return solution.ys[-1], solution.stats

    return run


def torchdiffeq_way(solve: Callable[..., Tensor]) -> Way:
    def run(f: nn.Module, y0: Tensor, steps: int) -> tuple[Tensor, Any]:
        return solve(f, y0, torch.tensor([0.0, 1.0]), method="rk4", options={"step_size": 1.0 / steps})[-1], None

    return run


WAYS: dict[str, Way] = {
    "Backprop": isocline_way(ic.Backprop()),
    "Checkpointed": isocline_way(ic.Checkpointed()),
    "Checkpointed, graphs = 4 MiB": isocline_way(ic.Checkpointed(graphs=4 * 2**20)),
    "Checkpointed, graphs = 0": isocline_way(ic.Checkpointed(graphs=0)),
    f"Checkpointed, {BUDGET_STATES} states": isocline_way(ic.Checkpointed(memory=BUDGET_STATES * STATE)),
    "Backsolve": isocline_way(ic.Backsolve()),
    "ReversibleAdjoint, Reversible(3/8 rule)": isocline_way(
        ic.ReversibleAdjoint(), ic.solvers.Reversible(ic.solvers.RK4ThreeEighths())
    ),
    "torchdiffeq backprop": torchdiffeq_way(torchdiffeq.odeint),
    "torchdiffeq adjoint": torchdiffeq_way(torchdiffeq.odeint_adjoint),
}


def measure(way: Way, steps: int) -> tuple[int, int, str]:
    """(bytes held between the two ways, peak of both, calls of f forward + backward)."""
    f = Field()
    y0 = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    gc.collect()
    with LiveBytes() as live:
        end, stats = way(f, y0, steps)
        loss = end.square().mean()
        gc.collect()
        held = live.now
        torch.autograd.grad(loss, [y0, *f.parameters()])
    calls = "–" if stats is None else f"{stats.evaluations} + {stats.evaluations_backward}"
    return held, live.peak, calls


PAGE = """# Memory

{origin}
Made by `benchmarks/memory.py`. A 16-64-16 field (tanh) on a batch of {batch} in float32, one state {state:.1f} KiB;
the 3/8 rule with fixed steps on [0, 1], observed at the end; the gradient by y0 and all parameters. Counted are the
bytes of all tensors made by the solve and alive, autograd's included, at every operation (how: `LiveBytes`).
The numbers are counts, the same on every machine.

## Peak, KiB

{peak}
`Backprop` grows with the number of steps by the graph of a step. `Checkpointed` keeps such graphs too while they fit
into `graphs` (64 MiB unless told otherwise: here, all of them up to 400 steps), so as not to call f again; beyond, and from the start with
`graphs=0`, it grows by one state a step, on top of the graph of a single step. Under a budget of {budget} states it does
not grow, and pays in calls of f; `Backsolve` does not grow, nor does `ReversibleAdjoint`, which takes the
steps back themselves and is exact; its solver calls f twice as often, undoing and differentiating four times. "Per step" is the slope between the last two columns.

## Held between the way forward and the way back, KiB

{held}
## Calls of f, forward + backward

{calls}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = (10, 30, 40) if options.quick else (25, 50, 100, 200, 400, 800)
    peak, held, calls = [], [], []
    for name, way in WAYS.items():
        measured = [measure(way, steps) for steps in counts]
        slope = (measured[-1][1] - measured[-2][1]) / (counts[-1] - counts[-2]) / 1024
        peak.append([name, *(f"{m[1] / 1024:.0f}" for m in measured), f"{slope:.2f}"])
        held.append([name, *(f"{m[0] / 1024:.0f}" for m in measured)])
        if not name.startswith("torchdiffeq"):
            calls.append([name, *(m[2] for m in measured)])
    header = ["way back", *(f"{n} steps" for n in counts)]
    page = PAGE.format(
        origin=origin(["torchdiffeq"]),
        batch=BATCH,
        state=STATE / 1024,
        budget=BUDGET_STATES,
        peak=table([*header, "per step"], peak),
        held=table(header, held),
        calls=table(header, calls),
    )
    options.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
