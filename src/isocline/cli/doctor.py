"""`isocline doctor`: what is here, whether the fused engine's machine is built and right, and how fast it is."""

from __future__ import annotations

import json
import time
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as Grid
from torch import Tensor, nn

from isocline._version import __version__
from isocline.engines.fused import build
from isocline.experiments.lab import record
from isocline.nn import MLP, TimeMLP
from isocline.nn.hamiltonian_ode import Hamiltonian
from isocline.solve import solve

console = Console(highlight=False, markup=False)
EXTENSIONS = ["sse2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "neon", "asimd", "sve", "sve2"]
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-10}  # what may lie between the engines, of the largest number
SECONDS = 5.0  # of a line of the benchmark; once each way it runs in any case


def doctor_command(benchmark: bool, as_json: bool) -> int:
    """0 where all is well, or without a compiler; 1 where there is one and the machine cannot be built, or is wrong."""
    found: dict[str, Any] = {"system": system()}

    def show(*what: Any, **style: Any) -> None:
        if not as_json:
            console.print(*what, **style)

    show(pairs(found["system"]))
    code = 0
    try:
        build.compiler()
    except build.NoMachineError as error:
        found["missing"] = f"{error}; until then engine='eager' does everything, and engine='fused' is not there"
        show(f"\n{found['missing']}")
    else:
        code = examine(found, benchmark, show)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    return code


def examine(found: dict[str, Any], benchmark: bool, show: Any) -> int:
    """Builds, tests and times the machine; leaves what it finds in `found`, and returns the exit code."""
    try:
        found["machine"] = machine()
    except build.NoMachineError as error:
        found["failed"] = str(error)
        show(f"\n{error}", style="red")
        return 1
    show(pairs(found["machine"]))
    show("\nself-test: how far the engines lie apart, of the largest number")
    found["self_test"] = self_test()
    show(results(found["self_test"]))
    if not all(row["passed"] for row in found["self_test"]):
        show("\nThe fused engine is wrong on this computer: take engine='eager', and report this page.", style="red")
        return 1
    if benchmark:
        show("\nbenchmark: layers 2-50-2 on y³, rtol 1e-6, float32, one thread; milliseconds")
        found["benchmark"] = measured()
        show(speeds(found["benchmark"]))
    show("\nAll is well.")
    return 0


def system() -> dict[str, Any]:
    """Versions and the processor."""
    here, features = record.machine(), build.features()
    return {
        "isocline": __version__,
        "torch": here["torch"],
        "python": here["python"],
        "processor": here["cpu"],
        "vector extensions": " ".join(x for x in EXTENSIONS if x in features) or "none known",
        "cores": here["cores"],
        "threads of PyTorch": here["threads"],
    }


def machine() -> dict[str, Any]:
    """The machine, built where it was not.

    Raises:
        NoMachineError: where it cannot be.
    """
    compiled_by = build.compiler()
    found: dict[str, Any] = {"compiler": build.version_of(compiled_by) or " ".join(compiled_by)}
    before, began = build.kept(build.key(compiled_by)), time.monotonic()
    path = build.build()
    found["machine"] = "was built before" if before else f"built now, in {time.monotonic() - began:.0f} s"
    return {**found, "at": str(path), "bytes": path.stat().st_size, "made with": build.made_with()}


# ---- the self-test ------------------------------------------------------------------------------------------------
class Lorenz(nn.Module):
    """A field without layers."""

    def __init__(self) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.tensor(10.0))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Of (B, 3) states."""
        a, b, c = y.unbind(-1)
        return torch.stack((self.sigma * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c), -1)


class Cubed(nn.Module):
    """Layers 2-50-2 on y³, the field that the 2018 paper's demonstration learns."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = MLP((2, 50, 2), seed=0)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Of (B, 2) states."""
        return self.layers(t, y**3)


def fields() -> dict[str, tuple[nn.Module, int]]:
    """Modules with parameters, and the sizes of their states."""
    return {
        "layers 2-50-2 on y³": (Cubed(), 2),
        "softplus layers": (MLP((3, 16, 16, 3), "softplus", seed=1), 3),
        "layers with time": (TimeMLP((2, 16, 2), seed=2), 2),
        "Lorenz": (Lorenz(), 3),
        "a gradient inside": (Hamiltonian(MLP((2, 16, 1), seed=3)), 2),
    }


def self_test() -> list[dict[str, Any]]:
    """Solves of 37 samples and their gradients by both engines, and how far they lie apart, of the largest number."""
    return [
        compared(name, field.to(dtype), size, dtype) for dtype in ROUNDING for name, (field, size) in fields().items()
    ]


def compared(name: str, field: nn.Module, size: int, dtype: torch.dtype) -> dict[str, Any]:
    """A line of the self-test: steps of one length, so that nothing but rounding lies between the engines."""
    row: dict[str, Any] = {"field": name, "dtype": str(dtype).removeprefix("torch.")}
    generator = torch.Generator().manual_seed(0)
    y0 = torch.randn(37, size, generator=generator, dtype=dtype).requires_grad_()
    found = []
    try:
        for engine in ("eager", "fused"):
            ys = solve(field, y0, [0.0, 0.1, 0.25], step=0.05, batching="per_sample", engine=engine).ys
            found.append(
                (
                    ys.detach(),
                    *torch.autograd.grad(ys.square().sum(), [y0, *field.parameters()], materialize_grads=True),
                )
            )
    except (ValueError, RuntimeError) as error:
        return {**row, "passed": False, "why": str(error)}
    apart = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for b, a in zip(*found, strict=True)]
    row |= {"forward": apart[0], "gradient": max(apart[1:])}
    return {**row, "passed": all(x <= ROUNDING[dtype] for x in apart)}


# ---- the benchmark ------------------------------------------------------------------------------------------------
def measured() -> list[dict[str, Any]]:
    """Milliseconds of solves by both engines on one thread, medians of calls in turn."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [timed(batch, gradient) for batch in (20, 1000) for gradient in (False, True)]
    finally:
        torch.set_num_threads(before)


def timed(batch: int, gradient: bool) -> dict[str, Any]:
    """A line of the benchmark."""
    field, y0 = Cubed(), torch.randn(batch, 2, generator=torch.Generator().manual_seed(0))

    def run(engine: str) -> None:
        with torch.set_grad_enabled(gradient):
            ys = solve(field, y0, [0.0, 1.0], rtol=1e-6, atol=1e-6, batching="per_sample", engine=engine).ys
        if gradient:
            torch.autograd.grad(ys.square().mean(), list(field.parameters()))

    taken: dict[str, list[float]] = {"eager": [], "fused": []}
    for engine in taken:
        run(engine)
    began = time.perf_counter()
    while not taken["fused"] or (time.perf_counter() - began < SECONDS and len(taken["fused"]) < 100):
        for engine, times in taken.items():
            start = time.perf_counter()
            run(engine)
            times.append(1e3 * (time.perf_counter() - start))
    eager, fused = (median(times) for times in taken.values())
    what = "forward and backward" if gradient else "forward"
    return {"batch": batch, "what": what, "eager_ms": eager, "fused_ms": fused, "ratio": eager / fused}


# ---- the screen ---------------------------------------------------------------------------------------------------
def pairs(rows: dict[str, Any]) -> Grid:
    """Names and what they are."""
    made = Grid(box=None, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(min_width=18, no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        made.add_row(name, str(value))
    return made


def grid(*headers: str) -> Grid:
    """An empty table, of text to the left and numbers to the right."""
    made = Grid(box=None, padding=(0, 2, 0, 0))
    for header in headers:
        made.add_column(header, justify="left" if header in ("", "field", "dtype", "what") else "right")
    return made


def results(rows: list[dict[str, Any]]) -> Grid:
    """The self-test."""
    made = grid("field", "dtype", "forward", "gradient", "")
    for row in rows:
        apart = [f"{row[x]:.0e}" if x in row else "" for x in ("forward", "gradient")]
        said = "passed" if row["passed"] else f"FAILED {row.get('why', '')}"
        made.add_row(row["field"], row["dtype"], *apart, said, style=None if row["passed"] else "red")
    return made


def speeds(rows: list[dict[str, Any]]) -> Grid:
    """The benchmark."""
    made = grid("batch", "what", "eager", "fused", "ratio")
    for row in rows:
        made.add_row(str(row["batch"]), row["what"], *(f"{row[x]:.3g}" for x in ("eager_ms", "fused_ms", "ratio")))
    return made
