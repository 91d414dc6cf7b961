"""isocline beside torchdiffeq, torchode, torchdyn and diffrax at equal error, and stiff batches: writes peers.md.

pip install -c constraints.txt -e ".[bench]"
pip install -c constraints.txt --no-deps torchdyn torchcde torchsde trampoline
taskset -c 1 python benchmarks/peers.py [--quick] [--out FILE]

torchdyn's declared dependencies would bring torchvision and PyTorch for GPUs; its solvers need only the three named.
A peer that is not installed is left out. A run that was stopped goes on where it was, from peers.json.
"""

from __future__ import annotations

import os

# Before anything starts a pool of threads.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", JAX_PLATFORMS="cpu")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from common import Cheap, Net, digits, interleaved, median, origin, starts, table
from torch import Tensor, nn

import isocline as ic

FIELDS: dict[str, type[nn.Module]] = {"cheap": Cheap, "2-50-2": Net}
INSTALL = {
    "torchdiffeq": "-e '.[bench]'",
    "torchode": "-e '.[bench]'",
    "torchdyn": "--no-deps torchdyn torchcde torchsde trampoline",
    "diffrax": "-e '.[bench]'",
}  # after `pip install -c constraints.txt`
PEERS = tuple(INSTALL)
TOLERANCE = 1e-5
STIFF_TOLERANCE = 1e-3
END = 5.0
OUTPUTS = 10
STIFF_JUDGED = 100  # samples of a stiff batch whose error is looked at


@dataclass
class Settings:
    fields: tuple[str, ...] = ("cheap", "2-50-2")
    batches: tuple[int, ...] = (1, 20, 1000)
    stiff: tuple[str, ...] = ("Van der Pol", "Robertson")
    stiff_batches: tuple[int, ...] = (1, 1000)
    rounds: int = 9
    ladder: int = 4  # tolerances a decade
    stiff_solvers: tuple[str, ...] = ("rodas5_p", "kvaerno5", "radau_iia5")


@cache
def present(name: str) -> bool:
    """Whether it can be imported, its own dependencies included."""
    try:
        import_module("torchdyn.numerics" if name == "torchdyn" else name)
    except ImportError:
        return False
    return True


def missing() -> str:
    """One line: what is not installed, and how to install it; empty where all is."""
    absent = [name for name in PEERS if not present(name)]
    if not absent:
        return ""
    commands = dict.fromkeys(f".venv/bin/python -m pip install -c constraints.txt {INSTALL[name]}" for name in absent)
    return f"Not installed and left out: {', '.join(absent)}. To include: `{'; '.join(commands)}`\n"


def times() -> Tensor:
    return torch.linspace(0.0, END, OUTPUTS)


# ---- a run that was stopped -------------------------------------------------------------------------------------------
@dataclass
class Cells:
    """Rows of what has been measured, by name; kept in a file until the page is written."""

    file: Path
    settings: Settings

    def rows(self, name: str, measure: Callable[[], dict[str, list[Any]]]) -> dict[str, list[Any]]:
        """What `measure` returns, or has returned before the run with these settings was stopped."""
        key = f"{name}, {self.settings}"
        found = json.loads(self.file.read_text()) if self.file.exists() else {}
        if key not in found:
            found[key] = measure()
            self.file.write_text(json.dumps(found))
        return found[key]


# ---- how each package solves the same work ---------------------------------------------------------------------------
Solve = Callable[[nn.Module, Tensor, float], Tensor]  # (field, y0 (B, 2), tolerance) to the path (T, B, 2)


@dataclass
class Method:
    """One solver of one package on one piece of work; its two calls take a tolerance."""

    package: str
    solver: str
    forward: Callable[[float], Any]
    both: Callable[[float], Any]
    read: Callable[[Any], Any] = lambda result: result  # to tensors, after the clock
    compiled: tuple[float | None, float | None] = (None, None)  # seconds for forward and for both

    @property
    def name(self) -> str:
        return f"{self.package} {self.solver}"


def with_gradients(solve: Solve, f: nn.Module, y0: Tensor, tol: float) -> tuple[Tensor, list[Tensor]]:
    """The path and the gradients, by y0 and by every parameter, of the mean square of the path."""
    y = y0.detach().requires_grad_()
    path = solve(f, y, tol)
    return path.detach(), list(torch.autograd.grad(path.square().mean(), [y, *f.parameters()]))


def torch_method(package: str, solver: str, solve: Solve, f: nn.Module, y0: Tensor) -> Method:
    return Method(package, solver, torch.no_grad()(partial(solve, f, y0)), partial(with_gradients, solve, f, y0))


def isocline_solve(solver: str, batching: str, f: nn.Module, y0: Tensor, tol: float) -> Tensor:
    return ic.solve(f, y0, times().double(), solver=solver, batching=batching, rtol=tol, atol=tol).ys


def torchdiffeq_solve(solver: str, f: nn.Module, y0: Tensor, tol: float) -> Tensor:
    import torchdiffeq

    return torchdiffeq.odeint(f, y0, times(), method=solver, rtol=tol, atol=tol)


def torchode_solve(solver: str, f: nn.Module, y0: Tensor, tol: float) -> Tensor:
    """Its I controller, as in the other packages, without gradients through the choice of steps: its faster way."""
    import torchode

    term = torchode.ODETerm(f)
    method = {"dopri5": torchode.Dopri5, "tsit5": torchode.Tsit5}[solver](term)
    controller = torchode.IntegralController(tol, tol, term=term)
    way = torchode.AutoDiffAdjoint(method, controller, backprop_through_step_size_control=False)
    ts = times().expand(len(y0), -1)
    return way.solve(torchode.InitialValueProblem(y0, ts[:, 0], ts[:, -1], ts), term).ys.transpose(0, 1)


def torchdyn_solve(solver: str, f: nn.Module, y0: Tensor, tol: float) -> Tensor:
    """With its interpolant, which it has for dopri5; with tsit5 it steps to every observation."""
    from torchdyn.numerics import odeint

    path = odeint(f, y0, times(), solver, rtol=tol, atol=tol, interpolator="4th" if solver == "dopri5" else None)[1]
    if len(path) != OUTPUTS:
        raise RuntimeError(f"torchdyn returned {len(path)} observations of {OUTPUTS}")
    return path


def cheap_jax(parameters: Sequence[Any], y: Any) -> Any:
    return y @ parameters[0]


def net_jax(parameters: Sequence[Any], y: Any) -> Any:
    import jax.numpy as jnp

    inner, bias, outer, shift = parameters
    return jnp.tanh((y**3) @ inner.T + bias) @ outer.T + shift


JAX_FIELDS = {Cheap: cheap_jax, Net: net_jax}


def compiled(function: Callable[..., Any], *examples: Any) -> tuple[Callable[..., Any], float]:
    """The function compiled for these shapes, and the seconds that took."""
    import jax

    begun = time.process_time()
    run = jax.jit(function).lower(*examples).compile()
    return lambda *values: jax.block_until_ready(run(*values)), time.process_time() - begun


def diffrax_method(solver: str, per_sample: bool, f: nn.Module, y0: Tensor) -> Method:
    import diffrax
    import jax
    import jax.numpy as jnp
    import numpy as np

    kind = {"dopri5": diffrax.Dopri5, "tsit5": diffrax.Tsit5}[solver]
    field_jax = JAX_FIELDS[type(f)]
    parameters = [jnp.asarray(p.detach().numpy()) for p in f.parameters()]
    ts, start, one = jnp.asarray(times().numpy()), jnp.asarray(y0.numpy()), jnp.asarray(TOLERANCE, jnp.float32)

    def path(y: Any, parameters: Any, tol: Any) -> Any:
        def solve(y: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, p: field_jax(p, y)),
                kind(),
                ts[0],
                ts[-1],
                None,
                y,
                parameters,
                saveat=diffrax.SaveAt(ts=ts),
                stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
            ).ys

        return jax.vmap(solve, out_axes=1)(y) if per_sample else solve(y)

    def loss(y: Any, parameters: Any, tol: Any) -> Any:
        ys = path(y, parameters, tol)
        return jnp.mean(ys**2), ys

    forward, first = compiled(path, start, parameters, one)
    both, second = compiled(jax.value_and_grad(loss, (0, 1), has_aux=True), start, parameters, one)

    def read(result: Any) -> Any:
        if not isinstance(result, tuple):
            return torch.from_numpy(np.array(result))
        (_, ys), (by_start, by_parameters) = result
        return read(ys), [read(g) for g in (by_start, *by_parameters)]

    return Method(
        "diffrax",
        f"{solver} vmap" if per_sample else solver,
        lambda tol: forward(start, parameters, jnp.asarray(tol, jnp.float32)),
        lambda tol: both(start, parameters, jnp.asarray(tol, jnp.float32)),
        read,
        (first, second),
    )


def methods(f: nn.Module, y0: Tensor) -> Iterator[Method]:
    """All that are installed; the first sets the error that the others have to reach."""
    eager: list[tuple[str, Callable[..., Tensor], tuple[str, ...]]] = [
        ("torchdiffeq", torchdiffeq_solve, ("dopri5",)),
        ("torchode", torchode_solve, ("dopri5", "tsit5")),
        ("torchdyn", torchdyn_solve, ("dopri5", "tsit5")),
    ]
    for package, solve, solvers in eager:
        if present(package):
            yield from (torch_method(package, solver, partial(solve, solver), f, y0) for solver in solvers)
    for solver, batching in (("dopri5", "shared"), ("tsit5", "shared"), ("dopri5", "per_sample")):
        title = solver if batching == "shared" else f"{solver} per sample"
        yield torch_method("isocline", title, partial(isocline_solve, solver, batching), f, y0)
        if present("diffrax"):
            yield diffrax_method(solver, batching == "per_sample", f, y0)


# ---- equal error -----------------------------------------------------------------------------------------------------
@dataclass
class Chosen:
    """A method at the tolerance it needs."""

    method: Method
    tolerance: float
    errors: tuple[float, ...]
    seconds: list[float] = field(default_factory=list)


def judged(result: tuple[Tensor, list[Tensor]], exact: tuple[Tensor, list[Tensor]]) -> tuple[float, float]:
    """Of the path relative to its largest entry; of the gradient the worst of y0 and the parameters, in norm."""
    path = float((result[0] - exact[0]).abs().max() / exact[0].abs().max())
    return path, max(float((g - e).norm() / e.norm()) for g, e in zip(result[1], exact[1], strict=True))


def matched(errors: Callable[[float], tuple[float, ...]], goal: Sequence[float], start: float, ladder: int) -> Any:
    """The loosest tolerance at which, and at the next tighter one, no error exceeds the goal; with those errors.

    Two in a row, so that no lucky hit is taken. None where no tolerance does.
    """
    before = None
    for rung in range(-ladder, 5 * ladder):
        tol = start * 10 ** (-rung / ladder)
        try:
            found = errors(tol)
        except Exception:  # too loose to get through, or too tight: what a package raises is its own
            before = None
            continue
        if not all(e <= g for e, g in zip(found, goal, strict=True)):
            before = None
        elif before is not None:
            return before
        else:
            before = tol, found
    return None


def compare(kind: type[nn.Module], batch: int, settings: Settings) -> list[list[Chosen]]:
    """Forward, and forward with backward."""
    exact = with_gradients(
        lambda f, y, tol: ic.solve(f, y, times().double(), solver="dopri8", rtol=tol, atol=tol).ys,
        kind(),
        starts(batch),
        1e-11,
    )
    found = list(methods(kind().float(), starts(batch).float()))
    judges = [cache(lambda tol, m=m: judged(m.read(m.both(tol)), exact)) for m in found]
    goal = judges[0](TOLERANCE)
    both = []
    for parts in (1, 2):  # errors that count: without a gradient only that of the path
        chosen = [Chosen(found[0], TOLERANCE, goal[:parts])]
        for method, errors in zip(found[1:], judges[1:], strict=True):
            hit = matched(lambda tol, e=errors, n=parts: e(tol)[:n], goal[:parts], TOLERANCE, settings.ladder)
            chosen.append(Chosen(method, *hit) if hit else Chosen(method, float("nan"), ()))
        call = "forward" if parts == 1 else "both"
        timed(
            {i: partial(getattr(c.method, call), c.tolerance) for i, c in enumerate(chosen) if c.errors},
            chosen,
            settings,
        )
        both.append(chosen)
    return both


def timed(tasks: dict[Any, Callable[[], Any]], chosen: list[Chosen], settings: Settings) -> None:
    for i, seconds in interleaved(tasks, settings.rounds).items():
        chosen[i].seconds = seconds


def best(chosen: Sequence[Chosen]) -> Chosen | None:
    return min((c for c in chosen if c.seconds), key=lambda c: median(c.seconds), default=None)


def ratio(one: Chosen | None, other: Chosen | None) -> float | None:
    if one is None or other is None or not one.seconds or not other.seconds:
        return None
    return median([a / b for a, b in zip(one.seconds, other.seconds, strict=True)])


def shown(value: float | None, mark: bool = False) -> str:
    """Three digits; what is slower than a peer in bold."""
    if value is None:
        return "—"
    text = f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return f"**{text}**" if mark and value > 1 else text


def cells(c: Chosen, parts: int, reference: Chosen | None) -> list[str]:
    if not c.errors:
        return ["not reached", *["—"] * (parts + 2)]
    errors = [f"{e:.1e}" for e in c.errors]
    value = shown(ratio(c, reference), c.method.package == "isocline")
    return [f"{c.tolerance:.1e}", *errors, digits(median(c.seconds) * 1e3), value]


def explicit_rows(title: str, batch: int, settings: Settings) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"summary": [], "forward": [], "both": []}
    for parts, chosen in enumerate(compare(FIELDS[title], batch, settings), 1):
        work = ("forward", "both")[parts - 1]
        ours = best([c for c in chosen if c.method.package == "isocline"])
        peers = [c for c in chosen if c.method.package != "isocline"]
        fastest, eager = best(peers), best([c for c in peers if c.method.package != "diffrax"])
        row: list[Any] = [title, batch, work, ours.method.name if ours else "—"]
        for peer in (fastest, eager):
            row += [peer.method.name if peer else "—", shown(ratio(ours, peer), mark=True)]
        found["summary"].append(row)
        for c in chosen:
            took = shown(c.method.compiled[parts - 1])
            found[work].append([title, batch, c.method.name, *cells(c, parts, fastest), took])
    print(*found["summary"], sep="\n", flush=True)
    return found


def explicit_tables(settings: Settings, kept: Cells) -> tuple[str, str, str]:
    rows: dict[str, list[Any]] = {"summary": [], "forward": [], "both": []}
    for title in settings.fields:
        for batch in settings.batches:
            measured = kept.rows(f"{title} {batch}", partial(explicit_rows, title, batch, settings))
            for work, part in measured.items():
                rows[work] += part
    head, tail = ["field", "batch", "method", "tolerance", "error of y"], ["ms", "ratio", "compiling, s"]
    return (
        table(
            ["field", "batch", "work", "isocline's best", "best peer", "ratio", "best in PyTorch", "ratio"],
            rows["summary"],
        ),
        table([*head, *tail], rows["forward"]),
        table([*head, "error of gradient", *tail], rows["both"]),
    )


# ---- stiff -----------------------------------------------------------------------------------------------------------
@dataclass
class Stiff:
    """A stiff system with one parameter a sample, in operations that torch and jax share."""

    field: Callable[[Sequence[Any], Any], list[Any]]  # components and parameter to derivatives
    start: tuple[float, ...]
    parameter: float
    spread: float  # parameters are within ± this fraction
    ts: tuple[float, ...]
    atol: float  # in units of rtol

    def starts(self, batch: int) -> tuple[Tensor, Tensor]:
        """y0 (B, D) and the parameters (B,), the first of which is the nominal one."""
        steps = torch.linspace(0.0, 1.0, batch + 1, dtype=torch.float64)[:batch]
        factors = 1 + self.spread * torch.sin(2 * torch.pi * steps)
        return torch.tensor(self.start, dtype=torch.float64).repeat(batch, 1), self.parameter * factors


def van_der_pol(y: Sequence[Any], mu: Any) -> list[Any]:
    x, v = y
    return [v, mu * (1 - x**2) * v - x]


def robertson(y: Sequence[Any], k: Any) -> list[Any]:
    a, b, c = k * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return [b - a, a - b - c, c]


STIFF = {
    # Two jumps, observed before, between and after: 0.81 µ and 1.61 µ.
    "Van der Pol": Stiff(
        van_der_pol, (2.0, 0.0), 1000.0, 0.1, (0.0, 200, 400, 600, 950, 1100, 1250, 1400, 1900, 2000), 1e-3
    ),
    "Robertson": Stiff(robertson, (1.0, 0.0, 0.0), 0.04, 0.2, (0.0, *(10.0**i for i in range(-2, 5))), 1e-4),
}


def isocline_stiff(problem: Stiff, solver: str, y0: Tensor, parameters: Tensor) -> Method:
    def f(t: Tensor, y: Tensor, parameter: Tensor) -> Tensor:
        return torch.stack(problem.field(y.unbind(-1), parameter), -1)

    @torch.no_grad()
    def run(tol: float) -> Tensor:
        settings: dict[str, Any] = {"rtol": tol, "atol": tol * problem.atol, "batching": "per_sample"}
        return ic.solve(f, y0, problem.ts, solver=solver, args=(parameters,), **settings).ys

    return Method("isocline", solver, run, run)


def diffrax_stiff(problem: Stiff, y0: Tensor, parameters: Tensor) -> Method:
    import diffrax
    import jax
    import jax.numpy as jnp
    import numpy as np

    ts = jnp.asarray(problem.ts, jnp.float64)

    def path(y: Any, parameters: Any, tol: Any) -> Any:
        def solve(y: Any, parameter: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, p: jnp.stack(problem.field(y, p))),
                diffrax.Kvaerno5(),
                ts[0],
                ts[-1],
                None,
                y,
                parameter,
                saveat=diffrax.SaveAt(ts=ts),
                stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol * problem.atol),
                max_steps=100_000,
            ).ys

        return jax.vmap(solve, out_axes=1)(y, parameters)

    start, constants = jnp.asarray(y0.numpy()), jnp.asarray(parameters.numpy())
    run, took = compiled(path, start, constants, jnp.asarray(STIFF_TOLERANCE))
    call = lambda tol: run(start, constants, jnp.asarray(tol))  # noqa: E731
    return Method("diffrax", "kvaerno5 vmap", call, call, lambda ys: torch.from_numpy(np.array(ys)), (took, None))


def stiff_rows(title: str, settings: Settings) -> dict[str, list[Any]]:
    problem = STIFF[title]
    rows: list[Any] = []
    first: dict[str, float] = {}
    for batch in settings.stiff_batches:
        y0, parameters = problem.starts(batch)
        few = slice(None, None, max(1, batch // STIFF_JUDGED))
        exact = isocline_stiff(problem, "radau_iia5", y0[few], parameters[few]).forward(1e-9)
        found = [isocline_stiff(problem, solver, y0, parameters) for solver in settings.stiff_solvers]
        tried = [isocline_stiff(problem, solver, y0[few], parameters[few]) for solver in settings.stiff_solvers]
        if present("diffrax"):
            found.insert(0, diffrax_stiff(problem, y0, parameters))
            tried.insert(0, found[0])

        def errors(method: Method, tol: float, exact: Tensor = exact) -> tuple[float]:
            """Of every component relative to its largest value."""
            path = method.read(method.forward(tol))
            path = path[:, :: path.shape[1] // exact.shape[1]]
            return (float(((path - exact).abs().amax((0, 1)) / exact.abs().amax((0, 1))).max()),)

        goal = errors(tried[0], STIFF_TOLERANCE)
        chosen = [Chosen(found[0], STIFF_TOLERANCE, goal)]
        for method, trial in zip(found[1:], tried[1:], strict=True):
            hit = matched(partial(errors, trial), goal, STIFF_TOLERANCE, settings.ladder)
            chosen.append(Chosen(method, *hit) if hit else Chosen(method, float("nan"), ()))
        timed({i: partial(c.method.forward, c.tolerance) for i, c in enumerate(chosen) if c.errors}, chosen, settings)
        peer = chosen[0] if present("diffrax") else None
        for c in chosen:
            each = median(c.seconds) * 1e3 / batch if c.seconds else None
            growth = each / first.setdefault(c.method.name, each) if each is not None else None
            per_sample, grown = ("—" if x is None else digits(float(f"{x:.2g}")) for x in (each, growth))
            took = shown(c.method.compiled[0])
            rows.append([title, batch, c.method.name, *cells(c, 1, peer), per_sample, grown, took])
        print(*rows[-len(chosen) :], sep="\n", flush=True)
    return {"stiff": rows}


def stiff_table(settings: Settings, kept: Cells) -> str:
    rows = []
    for title in settings.stiff:
        rows += kept.rows(title, partial(stiff_rows, title, settings))["stiff"]
    head = ["problem", "batch", "method", "tolerance", "error of y", "ms", "ratio"]
    return table([*head, "ms a sample", "of batch 1", "compiling, s"], rows)


# ---- the page --------------------------------------------------------------------------------------------------------
PAGE = """# Peers

{origin}
Made by `benchmarks/peers.py`; the ratios are what carries over to another machine. All packages take turns in one
process, {rounds} rounds; numbers are medians (processor time), ratios medians of the ratios within a round. Fields:
*cheap*, one 2×2 product; *2-50-2*, tanh of a linear map of y³. {outputs} observations on [0, {end:g}], float32.

torchdiffeq runs at rtol = atol = {tolerance:g}. The others run at the loosest tolerance (of {ladder} a decade) at which,
there and at the next tighter one, no error exceeds torchdiffeq's against a float64 solution at 1e-11: that of the path
relative to its largest entry, and where there is a gradient, the worst in norm of those by y0 and the parameters, of
the mean square of the path. A ratio is to the fastest peer of its field, batch and work; isocline's above 1 are in
bold: there a peer is faster.

- torchode steps every sample on its own, as isocline's *per sample* and diffrax's *vmap* do; the others share steps.
- diffrax runs compiled as a whole for these shapes; compiling is in its own column, in no median. The others run
  eagerly.
- torchode does not differentiate the choice of steps here (its faster way).
- torchdyn interpolates with dopri5 and steps to every observation with tsit5.
- isocline runs with its eager engine, the default of `solve`; the fused engine is measured on [its own page](fused.md).

{missing}## In short

{summary}
{why}
## Forward

{forward}
## Forward and backward

{both}
## Stiff batches

Van der Pol x″ = µ(1 − x²)x′ − x over [0, 2000], µ = 1000 ± 10 %, and Robertson's reaction over [0, 10⁴], its first rate
0.04 ± 20 %: one value a sample, every sample with its own steps. In float64: in float32 diffrax does not get through
Van der Pol's jumps. Forward only. The goal is diffrax's error at rtol = {stiff:g} against Radau IIA at 1e-9, for every
component relative to its largest observed value; atol is 10⁻³ (Van der Pol) or 10⁻⁴ (Robertson) of rtol. Of 1000
samples {judged} are judged. *Of batch 1*: the time a sample relative to that of a single one; below 1 the time grows
less than linearly.

{stiff_rows}
{why_stiff}"""

# From cProfile and `common.Operations` on the same work.
WHY = """\
In every row diffrax is the fastest: its loop is one compiled program, while the eager engine dispatches every operation
from Python. A step of isocline takes 40 to 60 µs outside f (about 30 operations, one wait; [overhead](overhead.md)) and
six calls of f at 3 µs (cheap) or 12 µs (2-50-2) and more, also mostly dispatch; a compiled step of the cheap field takes
4 µs in all. The distance therefore shrinks with the batch. Backwards the same holds for autograd's graph, node by node.
"""
WHY_STIFF = """\
At batch 1 every isocline row is slower than diffrax, for the reason above with more operations: on Van der Pol a step of
Rodas5P dispatches 377 (f's included) with 1 wait, of Radau IIA 477 with 6, of Kvaerno5 1757 with 31: there six stages
are iterated one after the other, about four times each, and every iteration asks the host whether it has converged.
Newton's iteration and the stages are 60 to 75 % of the profile, Jacobians 8 to 15 %, f 7 to 11 %. At batch 1000 all
samples share these operations.

isocline also needs tighter tolerances than diffrax on Van der Pol, Kvaerno5 most of all. At 1e-3 diffrax rejects about
every second step (the more, the tighter its Newton iteration) and tries 2.7 times as many as isocline's Kvaerno5, so
that it ends far below its tolerance. And in isocline what is interpolated is less exact than the steps, whose error
alone is controlled: with Kvaerno5 at 1e-7 the error of Van der Pol's v falls from 1.3e-4 to 3.4e-7 where the
observations are stepped to (`step_ts`), with Rodas5P at 1e-5 from 8.7e-5 to 7.8e-6.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small batches, one round: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"), help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of peers about their own dependencies, and of tolerances tried on the way
    settings = Settings()
    if options.quick:
        settings = Settings(
            fields=("cheap",),
            batches=(2,),
            stiff=("Robertson",),
            stiff_batches=(2,),
            rounds=1,
            ladder=2,
            stiff_solvers=("rodas5_p",),
        )
    if present("diffrax"):
        import jax

        jax.config.update("jax_enable_x64", True)  # for the stiff rows; the others hand over float32
        logging.getLogger("jax").setLevel(logging.CRITICAL)
    print(missing(), end="", flush=True)
    kept = Cells(options.out.with_suffix(".json"), settings)
    summary, forward, both = explicit_tables(settings, kept)
    page = PAGE.format(
        origin=origin([name for name in (*PEERS, "jax") if present(name)]),
        rounds=settings.rounds,
        outputs=OUTPUTS,
        end=END,
        tolerance=TOLERANCE,
        ladder=settings.ladder,
        missing=f"{missing()}\n" if missing() else "",
        summary=summary,
        why=WHY if present("diffrax") else "",
        forward=forward,
        both=both,
        stiff=STIFF_TOLERANCE,
        judged=STIFF_JUDGED,
        stiff_rows=stiff_table(settings, kept),
        why_stiff=WHY_STIFF if present("diffrax") else "",
    )
    options.out.write_text(page)
    kept.file.unlink()
    print(page)


if __name__ == "__main__":
    main()
