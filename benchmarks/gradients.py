"""What every gradient method costs, needs and misses, on two problems: writes gradients.md.

python benchmarks/gradients.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import origin, table
from memory import LiveBytes
from torch import Tensor

import isocline as ic

F64 = torch.float64
METHODS = ("backprop", "checkpointed", "forward", "backsolve", "gauss_adjoint", "interpolating")
TOLERANCES = {"rtol": 1e-6, "atol": 1e-8}


@dataclass
class Case:
    """A field, where it starts, when it is observed, and what is differentiated."""

    name: str
    field: Callable[..., Tensor]
    y0: Tensor
    ts: Tensor
    parameters: list[Tensor]

    def loss(self, **options: Any) -> tuple[Tensor, Any]:
        solution = ic.solve(self.field, self.y0, self.ts, **{**TOLERANCES, **options})
        return solution.ys.square().mean(), solution.stats

    def gradient(self, **options: Any) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(self.loss(**options)[0], self.parameters)])


def cases(quick: bool) -> list[Case]:
    """Predators and prey with four rates, and a network on a batch."""
    rates = torch.tensor([1.1, 0.4, 0.1, 0.4], dtype=F64, requires_grad=True)

    def prey(t: Tensor, y: Tensor) -> Tensor:
        x, z = y.unbind(-1)
        a, b, c, d = rates.unbind()
        return torch.stack([a * x - b * x * z, c * x * z - d * z], -1)

    y0 = torch.tensor([10.0, 5.0], dtype=F64)
    small = Case("4 parameters", prey, y0, torch.linspace(0, 5 if quick else 20, 41, dtype=F64), [rates])
    net = ic.nn.MLP((2, 16, 2) if quick else (4, 32, 4), dtype=F64, seed=0)
    batch = torch.randn(16, 2 if quick else 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    ts = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    count = sum(p.numel() for p in net.parameters())
    return [small, Case(f"{count:,} parameters", net, batch, ts, list(net.parameters()))]


def cpu(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of processor time, the median; less touched by other work on the machine than a clock."""
    spent = []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        spent.append(time.process_time() - begun)
    return statistics.median(spent)


def row(case: Case, method: str, plain: float, exact: Tensor, repeats: int) -> list[str]:
    """Error, calls, cost and memory of one method."""
    got = case.gradient(gradient=method)
    error = float((got - exact).norm() / exact.norm())
    gc.collect()
    with LiveBytes() as live:
        loss, stats = case.loss(gradient=method)
        torch.autograd.grad(loss, case.parameters)
    spent = cpu(lambda: case.gradient(gradient=method), repeats)
    calls = f"{stats.evaluations} + {stats.evaluations_backward}"
    return [f"`{method}`", f"{error:.1e}", calls, f"{spent / plain:.1f}", f"{live.peak / 1024:.0f}"]


PAGE = """# Gradients

{origin}
Made by `benchmarks/gradients.py`. `tsit5`, rtol = 1e-6, atol = 1e-8, float64, shared steps. *error*: relative, of the
gradient by all parameters, against backpropagation at rtol = 1e-12. *calls of f*: forward + backward. *cost*: processor
time of gradient and solve together, in solves without a gradient (median). *peak*: KiB of all tensors alive, counted as in
`memory.py`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small problems, few repeats: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 2 if options.quick else 5
    page = PAGE.format(origin=origin([]))
    for case in cases(options.quick):
        exact = case.gradient(gradient="backprop", rtol=1e-12, atol=1e-13)
        with torch.no_grad():
            case.loss()
            plain = cpu(case.loss, 2 * repeats)
        rows = [row(case, method, plain, exact, repeats) for method in METHODS]
        times, size = len(case.ts), case.y0.numel()
        page += f"## {case.name}, a state of {size} numbers, {times} observations\n\n"
        page += table(["gradient", "error", "calls of f", "cost", "peak"], rows) + "\n"
    options.out.write_text(page.rstrip() + "\n")
    print(page)


if __name__ == "__main__":
    main()
