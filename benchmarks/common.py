"""What the benchmarks share: the fields, counting, timing, and a Markdown table that says where it was made."""

from __future__ import annotations

import datetime
import gc
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Cheap(nn.Module):
    """The linear spiral as one product of matrices: hardly anything but the solver is left to time."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix


class Net(nn.Module):
    """2-50-2 on y³, tanh: torchdiffeq's demonstration, its outer layer fitted to the cubic spiral by least squares."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Linear(2, 50, dtype=torch.float64)
        self.outer = nn.Linear(50, 2, dtype=torch.float64)
        with torch.no_grad():
            self.inner.weight.copy_(0.2 * torch.randn(50, 2, generator=generator, dtype=torch.float64))
            self.inner.bias.copy_(0.5 * torch.randn(50, generator=generator, dtype=torch.float64))
            axis = torch.linspace(-2.2, 2.2, 41, dtype=torch.float64)
            cubes = torch.cartesian_prod(axis, axis) ** 3
            features = torch.cat([torch.tanh(self.inner(cubes)), torch.ones(len(cubes), 1, dtype=torch.float64)], 1)
            slopes = cubes @ torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
            # A ridge keeps the weights moderate.
            normal = features.T @ features + 1e-2 * torch.eye(51, dtype=torch.float64)
            weights = torch.linalg.solve(normal, features.T @ slopes)
            self.outer.weight.copy_(weights[:50].T)
            self.outer.bias.copy_(weights[50])

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(y**3)))


def starts(batch: int) -> Tensor:
    """(batch, 2) in float64, around (2, 0)."""
    generator = torch.Generator().manual_seed(1)
    spread = 0.2 * torch.randn(batch, 2, generator=generator, dtype=torch.float64)
    return torch.tensor([1.7, 0.0], dtype=torch.float64) + spread.clamp(-0.4, 0.4)


class Counted(nn.Module):
    """A field that counts its calls by the number of rows it was given."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.calls: Counter[int] = Counter()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls[len(y)] += 1
        return self.field(t, y)


class Operations:
    """Counts what is dispatched to the device, and what makes the host wait for it.

    Waiting is reading a scalar (`item`, `bool`, `float`: `_local_scalar_dense`), `tolist`, and operations whose output
    shape depends on values. On a CPU `tolist` dispatches nothing, so it is counted where Python calls it.
    """

    VALUE_SHAPED = ("nonzero", "masked_select", "unique", "unique2", "equal", "is_nonzero", "allclose")

    def __init__(self) -> None:
        self.operations = self.waits = 0

    def __enter__(self) -> Operations:
        counts = self

        class Dispatched(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = func.overloadpacket.__name__.lstrip("_")
                masked = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
                if name == "local_scalar_dense" or name in Operations.VALUE_SHAPED or masked:
                    counts.waits += 1
                else:
                    counts.operations += 1
                return func(*args, **(kwargs or {}))

        class Called(TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                counts.waits += getattr(func, "__name__", "") == "tolist"
                return func(*args, **(kwargs or {}))

        self.modes = [Dispatched(), Called()]
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*error)


def interleaved(tasks: dict[Any, Callable[[], Any]], rounds: int, least: float = 0.01) -> dict[Any, list[float]]:
    """Seconds of one call of every task, one task after the other in each round: a drift of the clock meets all alike.

    Seconds of this process on the processor: with one thread the same as on the wall, but blind to other processes.

    A task is called again and again for at least `least` seconds a round, the first call of which does not count: what
    others left in the caches would be charged to it.
    """
    loops = {}
    for name, task in tasks.items():
        task()
        begun = time.process_time()
        task()
        loops[name] = max(1, round(least / (time.process_time() - begun)))
    seconds: dict[Any, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        gc.collect()
        gc.disable()
        for name, task in tasks.items():
            task()
            begun = time.process_time()
            for _ in range(loops[name]):
                task()
            seconds[name].append((time.process_time() - begun) / loops[name])
        gc.enable()
    return seconds


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The processor's name as the system gives it; with its family and model, as virtual machines tell only half of it."""
    try:
        lines = [x.partition(":") for x in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    told = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    if "model name" not in told:
        return platform.processor() or platform.machine()
    more = f" (family {told['cpu family']}, model {told['model']})" if "cpu family" in told and "model" in told else ""
    return told["model name"] + more


def digits(value: float) -> str:
    """To three digits, without an exponent where the number has an ordinary size: 1380, 16.9, 0.325."""
    return f"{float(f'{value:.3g}'):g}"


def origin(peers: Sequence[str] = ()) -> str:
    """Where, when, with what and by which command a table was made."""
    script = Path(sys.argv[0])
    command = shlex.join(["python", f"benchmarks/{script.name}", *sys.argv[1:]])
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", *peers))
    return (
        f"`{command}`, {datetime.date.today().isoformat()}; {processor()}, {platform.system()}, "
        f"Python {platform.python_version()}, {packages}, one thread.\n"
    )
