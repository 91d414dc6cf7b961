"""How fast a core can be: its peak of multiply-adds, and the machine's tanh; the floor of a solve made of both."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import median
from torch import Tensor, nn

import isocline as ic
from isocline.engines.fused.build import compiler
from isocline.nn.cnf import Carried, derivative_of

PEAK = r"""
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX2__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float V __attribute__((vector_size(BYTES)));
// 12 sums that do not wait for each other; returns how many multiply-adds a turn are.
extern "C" int turns(long count, float *out) {
  V sum[12], x = (V){} + 0.999f, y = (V){} + 0.001f;
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) sum[i] = (V){} + float(i);
  for (long n = 0; n < count; n++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      sum[i] = sum[i] * x + y;
      asm volatile("" : "+REGISTER"(sum[i]));
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) *out += sum[i][0];
  return 12 * BYTES / 4;
}
"""


def peak() -> float:
    """Multiply-adds a second of one core in single precision, from registers."""
    register = "x" if platform.machine() in ("x86_64", "AMD64") else "w"
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "peak.cpp", Path(folder) / "peak.so"
        source.write_text(PEAK.replace("REGISTER", register))
        flags = ["-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        subprocess.run([*compiler(), *flags, str(source), "-o", str(made)], check=True, capture_output=True)
        run: Any = ctypes.CDLL(str(made)).turns
        out, count, best = ctypes.c_float(), 20_000_000, 0.0
        for _ in range(15):
            begun = time.process_time()
            width = run(ctypes.c_long(count), ctypes.byref(out))
            best = max(best, width * count / (time.process_time() - begun))
    return best


class Tanhs(nn.Module):
    """tanh again and again."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        for _ in range(self.count):
            y = torch.tanh(y)
        return y


@torch.no_grad()
def tanh() -> float:
    """Seconds of one tanh as the machine computes it, from two fields that differ by eight of them."""
    y0 = torch.randn(2048, 64, generator=torch.Generator().manual_seed(0))
    few, many = Tanhs(4), Tanhs(12)

    def seconds(f: nn.Module) -> tuple[float, int]:
        begun = time.process_time()
        solution = ic.solve(f, y0, [0.0, 1.0], solver="rk4", step=1 / 8, engine="fused", batching="per_sample")
        return time.process_time() - begun, int(torch.as_tensor(solution.stats.evaluations).sum())

    seconds(few), seconds(many)
    rounds = [(seconds(many), seconds(few)) for _ in range(9)]
    return median([(a - b) / (8 * 64 * count) for (a, count), (b, _) in rounds])


def work(f: nn.Module) -> tuple[int, int] | None:
    """Multiply-adds and tanhs of an evaluation; None of a field without linear layers.

    The exact trace in two dimensions passes every layer twice more, one time for each row; in closed form it takes the middle
    one of three once more.
    """
    layers = [m for m in f.modules() if isinstance(m, nn.Linear)]
    if not layers:
        return None
    sizes = [m.weight.numel() for m in layers]
    if isinstance(f, Carried):
        sizes += sizes[1:2] if derivative_of(f.field, "value_and_divergence") else 2 * sizes
    return sum(sizes), sum(m.out_features for m in layers[:-1])


def floors(f: nn.Module, stats: dict[str, int], rate: float, activation: float) -> tuple[float, float] | None:
    """Seconds of the forward and of the backward: evaluations at the peak; on the way back the six stages of every
    accepted step again, and two products for each one forwards."""
    amount = work(f)
    if amount is None:
        return None
    products, tanhs = amount[0] / rate, amount[1] * activation
    return stats["evaluations"] * (products + tanhs), stats["accepted"] * 6 * (3 * products + tanhs)
