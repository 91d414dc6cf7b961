"""isocline beside torchdiffeq and compiled diffrax on a GPU, the same solver at the same tolerance: writes gpu.md.

    python benchmarks/gpu.py [--quick] [--out FILE]

Times are by the clock, to the end of the device's work. `--quick` takes any device and writes nothing: it shows that the
script runs.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the device's memory is shared with PyTorch

import torch
from common import Net, median, origin, starts, table
from torch import Tensor, nn

import isocline as ic
from isocline.experiments.lab.image_nets import ConvField

TOLERANCE, END, OUTPUTS = 1e-5, 1.0, 10
HEAD = """# On a GPU

{origin}
The device: {device}.

dopri5 in all packages, rtol = atol = 1e-5, float32, 10 observations on [0, 1], gradients by the package's exact way. {rounds}
rounds in turns, medians of the time by the clock until the device is done; *ratio*: isocline's time over the other's, median
of the rounds (below 1: isocline is faster; otherwise in bold). *error*: of the path against float64 at 1e-10, relative to its
largest entry. *waits*: how often the processor waited for the device, a step tried. diffrax is compiled for these shapes as
a whole, compiling is in no number, and it multiplies float32 matrices in TF32, jax's default, which PyTorch's is not.
isocline keeps the graphs of the first 64 MiB of steps and takes the others again (`Checkpointed`); torchdiffeq keeps all:
on large fields that is the difference backwards, which `gradient="backprop"` does not have. {missing}
"""


class Wide(nn.Module):
    """width-4·width-4·width-width, tanh, contracting a little."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.Tanh(),
            nn.Linear(4 * width, 4 * width),
            nn.Tanh(),
            nn.Linear(4 * width, width),
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return 3 * self.layers(y) - 0.3 * y


def wide(width: int, batch: int) -> tuple[nn.Module, Tensor]:
    field = Wide(width).double()
    return field, torch.randn(batch, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def images(batch: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    field = ConvField(64).double()
    return field, torch.randn(batch, 64, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "2-50-2, batch 1,000": lambda: (Net(), starts(1000)),
    "64-256-256-64, batch 4,096": lambda: wide(64, 4096),
    "512-2048-2048-512, batch 4,096": lambda: wide(512, 4096),
    "ODE-Net's block, 128 images": lambda: images(128),
}
Solve = Callable[[nn.Module, Tensor], Tensor]


def ours(field: nn.Module, y0: Tensor, **options: Any) -> Tensor:
    ts = torch.linspace(0, END, OUTPUTS, dtype=torch.float64)
    return ic.solve(field, y0, ts, **{"solver": "dopri5", "rtol": TOLERANCE, "atol": TOLERANCE, **options}).ys


def torchdiffeq(field: nn.Module, y0: Tensor) -> Tensor:
    from torchdiffeq import odeint

    ts = torch.linspace(0, END, OUTPUTS, device=y0.device)
    return odeint(field, y0, ts, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)


def both(solve: Solve, field: nn.Module, y0: Tensor) -> Tensor:
    y = y0.detach().requires_grad_()
    path = solve(field, y)
    torch.autograd.grad(path.square().mean(), [y, *field.parameters()])
    return path.detach()


def by_diffrax(field: nn.Module, y0: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """Forward, and forward with gradients, compiled; None for a field that is not written for it here."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import numpy as np

    weights = [jnp.asarray(p.detach().cpu().numpy()) for p in field.parameters()]
    if isinstance(field, Net):

        def f(t: Any, y: Any, p: Any) -> Any:
            return jnp.tanh((y**3) @ p[0].T + p[1]) @ p[2].T + p[3]

    elif isinstance(field, Wide):

        def f(t: Any, y: Any, p: Any) -> Any:
            hidden = jnp.tanh(jnp.tanh(y @ p[0].T + p[1]) @ p[2].T + p[3])
            return 3 * (hidden @ p[4].T + p[5]) - 0.3 * y

    else:
        return None
    ts, start = jnp.asarray(np.linspace(0, END, OUTPUTS, dtype=np.float32)), jnp.asarray(y0.cpu().numpy())

    def path(y: Any, p: Any) -> Any:
        controller = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE)
        term, save = diffrax.ODETerm(f), diffrax.SaveAt(ts=ts)
        return diffrax.diffeqsolve(
            term, diffrax.Dopri5(), ts[0], ts[-1], None, y, p, saveat=save, stepsize_controller=controller
        ).ys

    def loss(y: Any, p: Any) -> Any:
        ys = path(y, p)
        return jnp.mean(ys**2), ys

    forward = jax.jit(path).lower(start, weights).compile()
    back = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True)).lower(start, weights).compile()
    return lambda: jax.block_until_ready(forward(start, weights)), lambda: jax.block_until_ready(back(start, weights))


def clocked(task: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    task()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def waits(task: Callable[[], Any]) -> int:
    """How often the processor waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        task()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in seen)


def rows(title: str, device: str, rounds: int, with_diffrax: bool) -> list[list[Any]]:
    """Of one case: forward, and forward with backward."""
    field, y0 = CASES[title]()
    field, y0 = field.to(device), y0.to(device)
    exact = ours(field, y0, rtol=1e-10, atol=1e-10, solver="dopri8").detach()
    field, y0 = field.float(), y0.float()
    solves: dict[str, Solve] = {"isocline": ours, "isocline per sample": partial(ours, batching="per_sample")}
    if find_spec("torchdiffeq"):
        solves["torchdiffeq"] = torchdiffeq
    compiled = by_diffrax(field, y0) if with_diffrax else None
    out = []
    for work in ("forward", "both"):
        tasks: dict[str, Callable[[], Any]] = {}
        for name, solve in solves.items():
            if "per sample" in name and isinstance(field, ConvField):
                continue  # the field takes one time for all images
            tasks[name] = (
                partial(both, solve, field, y0) if work == "both" else torch.no_grad()(partial(solve, field, y0))
            )
        errors = {name: float((task() - exact).abs().max() / exact.abs().max()) for name, task in tasks.items()}
        if compiled is not None:
            tasks["diffrax"] = compiled[work == "both"]
        for task in tasks.values():
            task()
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(rounds):
            for name, task in tasks.items():
                times[name].append(clocked(task, device))
        with torch.no_grad():
            stats = ic.solve(field, y0, [0.0, END], solver="dopri5", rtol=TOLERANCE, atol=TOLERANCE).stats
        steps = stats.accepted + stats.rejected
        for name in tasks:
            ratio = median([a / b for a, b in zip(times["isocline"], times[name], strict=True)])
            counted = device == "cuda" and name in errors and "per" not in name and work == "forward"
            out.append(
                [
                    title if name == "isocline" else "", work, name, f"{median(times[name]) * 1e3:.2f}",
                    "" if name == "isocline" else f"{ratio:.2f}" if ratio < 1 else f"**{ratio:.2f}**",
                    f"{errors[name]:.1e}" if name in errors else "",
                    f"{waits(tasks[name]) / steps:.1f}" if counted else "",
                ]
            )  # fmt: skip
            print(*out[-1], sep=" | ", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--without-diffrax", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    device, rounds = ("cuda" if torch.cuda.is_available() else "cpu"), (1 if options.quick else 11)
    if device == "cpu" and not options.quick:
        raise SystemExit("benchmarks/gpu.py: PyTorch sees no GPU here; --quick shows that the script runs")
    with_diffrax = not options.without_diffrax and bool(find_spec("diffrax") and find_spec("jax"))
    found = []
    for title in list(CASES)[:1] if options.quick else CASES:
        found += rows(title, device, rounds, with_diffrax)
    if options.quick:
        return
    peers = ("torchdiffeq", "diffrax", "jax") if with_diffrax else ("torchdiffeq",)
    missing = "" if with_diffrax else "diffrax was left out."
    head = HEAD.format(origin=origin(peers), device=torch.cuda.get_device_name(), rounds=rounds, missing=missing)
    titles = ["field", "work", "package", "ms", "ratio", "error", "waits"]
    options.out.write_text(head + "\n" + table(titles, found))


if __name__ == "__main__":
    main()
