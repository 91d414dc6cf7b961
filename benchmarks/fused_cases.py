"""The work of fused.py, and how each package does it."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
from common import Net, starts
from fused_problems import MLP, Lorenz, carried_jax, closed_jax, cubic, flow, lorenz_jax, mlp_jax, net_jax, ring
from torch import Tensor, nn

import isocline as ic
from isocline.nn.cnf import Carried

RTOL, ATOL = 1e-6, 1e-8
# Dormand and Prince's own estimate of the error, which isocline's Dopri5 has, is 1.5 times that of torchdiffeq's and diffrax's
# (Shampine's weights): with as much more tolerance it takes the same steps as theirs.
LOOSER = {"dopri5": 1.5}
STEP = 1 / 1024  # of the fixed-step row: a number that float32 has
PEERS = ("torchdiffeq", "diffrax")
LEFT_OUT: set[str] = set()  # of the peers, on request


@cache
def present(name: str) -> bool:
    """Whether it can be imported, and is not left out."""
    if name in LEFT_OUT:
        return False
    try:
        import_module(name)
    except ImportError:
        return False
    return True


# ---- pieces of work ---------------------------------------------------------------------------------------------------
@dataclass
class Case:
    """One row of the table.

    Attributes:
        field, y0: for PyTorch, in float32.
        twin: the field for jax, `(t, y, parameters)`.
        ts: observations.
        steps: fixed ones; 0: adaptive.
        first: whether the peers get the components first, (N, B), as they are faster then.
        targets: (work, group of methods) to the ratio asked for.
        own: the same field as isocline has it, if it has a better one.
    """

    name: str
    field: Callable[[], nn.Module]
    y0: Callable[[], Tensor]
    twin: Callable[[Any, Any, Sequence[Any]], Any]
    ts: Tensor
    steps: int = 0
    first: bool = False
    targets: dict[tuple[str, str], float] = field(default_factory=dict)
    own: Callable[[], nn.Module] | None = None

    @property
    def ours(self) -> Callable[[], nn.Module]:
        return self.own or self.field

    @property
    def cotangents(self) -> Tensor:
        """Of the observations, (T, B, N)."""
        shape = len(self.ts), *self.y0().shape
        return torch.randn(shape, generator=torch.Generator().manual_seed(3))

    @property
    def solvers(self) -> tuple[str, ...]:
        return ("rk4",) if self.steps else ("dopri5", "tsit5")


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def against(forward: dict[str, float], both: dict[str, float]) -> dict[tuple[str, str], float]:
    """Targets."""
    return {("forward", k): v for k, v in forward.items()} | {("both", k): v for k, v in both.items()}


def cases() -> dict[str, Case]:
    unit, ends = torch.linspace(0, 1, 10), torch.tensor([0.0, 1.0])
    asked = {
        1: against({"diffrax": 1.2, "torchdiffeq": 250}, {"diffrax": 1.5, "torchdiffeq": 180}),
        20: against({"diffrax": 3.5, "torchdiffeq": 100}, {"diffrax": 6, "torchdiffeq": 90}),
        1000: against({"diffrax shared": 2.2, "diffrax vmap": 4.5}, {"diffrax shared": 4.5, "diffrax vmap": 10}),
    }
    asked[10_000] = asked[1000]
    found = [
        Case(
            f"2-50-2, batch {batch:,}",
            cubic,
            lambda batch=batch: ring(batch),
            net_jax,
            unit,
            targets=targets,
        )
        for batch, targets in asked.items()
    ]
    found += [
        Case(
            f"2-50-2 of random features, batch {batch:,}",
            lambda: Net().float(),
            lambda batch=batch: starts(batch).float(),
            net_jax,
            unit,
        )
        for batch in (20, 1000)
    ]
    for sizes, batch, forward, both in (
        ((16, 64, 64, 16), 256, 1.3, 1.9),
        ((64, 256, 256, 64), 512, 1.2, 1.6),
        ((16, 512, 16), 2048, 1.1, 1.1),
        ((16, 1024, 16), 2048, 1.1, 1.1),
    ):
        group = "diffrax" if len(sizes) == 4 else "peers"
        found.append(
            Case(
                f"{'-'.join(map(str, sizes))}, batch {batch:,}",
                lambda sizes=sizes: MLP(*sizes),
                lambda batch=batch, size=sizes[0]: normal(batch, size),
                mlp_jax,
                unit,
                targets=against({group: forward}, {group: both}),
            )
        )
    found.append(
        Case(
            "Lorenz, 10,000 × 1,000 steps of RK4",
            Lorenz,
            lambda: torch.tensor([1.0, 1.0, 20.0]) + normal(10_000, 3),
            lorenz_jax,
            1000 * STEP * ends,
            steps=1000,
            first=True,
            targets=against({"jax": 1.0, "torchdiffeq": 90}, {"jax": 4}),
        )
    )
    found.append(
        Case(
            "CNF 2-64-64-2, exact trace, batch 512",
            lambda: Carried(MLP(2, 64, 64, 2), 2, derivatives="reverse"),
            lambda: torch.cat([normal(512, 2), torch.zeros(512, 1)], 1),
            carried_jax,
            ends,
            targets=against({"diffrax": 2}, {"diffrax": 2}),
            own=flow,
        )
    )
    written_out = dataclasses.replace(
        found[-1], name="the same, closed form in all", field=flow, twin=closed_jax, targets={}
    )
    found.append(written_out)
    return {case.name: case for case in found}


# ---- how they are solved ----------------------------------------------------------------------------------------------
@dataclass
class Method:
    """One way to do the work. `forward` gives ys (T, B, N), `both` (ys, gradients by y0 and by all parameters) for
    cotangents of ys; `read` makes tensors of what it gives, after the clock."""

    group: str
    name: str
    works: dict[str, Callable[[], Any]]
    read: Callable[[Any], Any] = lambda result: result
    compiled: dict[str, float] = field(default_factory=dict)  # seconds

    stats: Callable[[], dict[str, int]] | None = None  # of all samples together


Solve = Callable[[nn.Module, Tensor], Tensor]


def torch_works(solve: Solve, f: nn.Module, y0: Tensor, cotangents: Tensor) -> dict[str, Callable[[], Any]]:
    y = y0.detach().requires_grad_()
    inputs = [y, *f.parameters()]

    def both() -> tuple[Tensor, Sequence[Tensor]]:
        ys = solve(f, y)
        return ys.detach(), torch.autograd.grad(ys, inputs, cotangents)

    return {"forward": torch.no_grad()(partial(solve, f, y0)), "both": both}


def isocline_solution(case: Case, solver: str, engine: Any, f: nn.Module, y: Tensor) -> ic.Solution:
    """`per_sample` steps."""
    looser = LOOSER.get(solver, 1.0)
    how: dict[str, Any] = {"step": STEP} if case.steps else {"rtol": looser * RTOL, "atol": looser * ATOL}
    return ic.solve(f, y, case.ts, solver=solver, engine=engine, batching="per_sample", **how)


def isocline_solve(case: Case, solver: str, engine: Any) -> Solve:
    return lambda f, y: isocline_solution(case, solver, engine, f, y).ys


@torch.no_grad()
def counted(case: Case, solver: str, engine: Any, f: nn.Module, y: Tensor) -> dict[str, int]:
    """Steps and evaluations of all samples together."""
    stats = isocline_solution(case, solver, engine, f, y).stats
    names = "accepted", "rejected", "evaluations"
    return {name: int(torch.as_tensor(getattr(stats, name)).sum()) for name in names}


def ours(case: Case) -> Iterator[Method]:
    engines: dict[str, Any] = {"fused": "fused"}
    kind = getattr(ic, "Fused", None)
    if kind is not None:
        engines["specialised"] = kind(specialise="wait")
    f, y0 = case.ours(), case.y0()
    for group, engine in engines.items():
        for solver in case.solvers:
            works = torch_works(isocline_solve(case, solver, engine), f, y0, case.cotangents)
            yield Method(group, f"{group} {solver}", works, stats=partial(counted, case, solver, engine, f, y0))


def torchdiffeq_methods(case: Case) -> Iterator[Method]:
    """Dopri5, or RK4 (its 3/8 rule: as many operations)."""
    import torchdiffeq

    f, y0, g = case.field(), case.y0(), case.cotangents
    if case.first:
        f, y0, g = Lorenz(0), y0.T.contiguous(), g.transpose(1, 2).contiguous()
    how: dict[str, Any] = (
        {"method": "rk4", "options": {"step_size": STEP}}
        if case.steps
        else {"method": "dopri5", "rtol": RTOL, "atol": ATOL}
    )
    read = (lambda x: first_last(x)) if case.first else (lambda x: x)
    direct = torch_works(lambda f, y: torchdiffeq.odeint(f, y, case.ts, **how), f, y0, g)
    adjoint = torch_works(lambda f, y: torchdiffeq.odeint_adjoint(f, y, case.ts, **how), f, y0, g)
    yield Method("torchdiffeq", "torchdiffeq odeint", direct, read)
    yield Method("torchdiffeq", "torchdiffeq odeint_adjoint", {"both": adjoint["both"]}, read)


def first_last(result: Any) -> Any:
    """From components first to components last."""
    if isinstance(result, tuple):
        ys, (by_y0, *others) = result
        return ys.transpose(1, 2), [by_y0.T, *others]
    return result.transpose(1, 2)


def jax_works(path: Callable[..., Any], g: Any, kinds: Sequence[str], example: Sequence[Any]) -> dict[str, Any]:
    """Compiled for the shapes of the example, with the cotangents `g`; with the seconds it took."""
    import jax

    def both(y: Any, p: Any) -> Any:
        ys, back = jax.vjp(path, y, p)
        return ys, back(g)

    functions = {"forward": path, "both": both}
    works, took = {}, {}
    for work in kinds:
        begun = time.perf_counter()
        run = jax.jit(functions[work]).lower(*example).compile()
        took[work] = time.perf_counter() - begun
        works[work] = lambda run=run: jax.block_until_ready(run(*example))
    return {"works": works, "compiled": took}


def read_jax(case: Case, result: Any) -> Any:
    import numpy as np

    def tensor(x: Any) -> Tensor:
        return torch.from_numpy(np.array(x))

    if isinstance(result, tuple):
        ys, (by_y0, by_parameters) = result
        found: Any = tensor(ys), [tensor(by_y0), *map(tensor, by_parameters)]
    else:
        found = tensor(result)
    return first_last(found) if case.first else found


def rk4_diffrax() -> Any:
    """The classical Runge–Kutta method, which diffrax lacks: a tableau is all it asks for."""
    import diffrax
    import numpy as np

    class RK4(diffrax.AbstractERK):
        tableau = diffrax.ButcherTableau(
            c=np.array([0.5, 0.5, 1.0]),
            b_sol=np.array([1, 2, 2, 1]) / 6,
            b_error=np.zeros(4),
            a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
        )
        interpolation_cls = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms: Any) -> int:
            return 4

    return RK4()


def jax_methods(case: Case, chosen: str = "", asked: Sequence[str] = ("forward", "both")) -> Iterator[Method]:
    """Those whose name contains `chosen`, compiled for what is asked of them."""
    import diffrax
    import jax
    import jax.numpy as jnp

    f, y0 = case.field(), case.y0()
    start = jnp.asarray((y0.T if case.first else y0).contiguous().numpy())
    g = case.cotangents
    g = jnp.asarray((g.transpose(1, 2) if case.first else g).contiguous().numpy())
    parameters = [jnp.asarray(p.detach().numpy()) for p in f.parameters()]
    ts = jnp.asarray(case.ts.numpy())
    term = diffrax.ODETerm(case.twin)
    kinds = {"dopri5": diffrax.Dopri5, "tsit5": diffrax.Tsit5, "rk4": rk4_diffrax}
    controller = diffrax.ConstantStepSize() if case.steps else diffrax.PIDController(rtol=RTOL, atol=ATOL)

    def path(solver: str, adjoint: Any, vmapped: bool, y: Any, p: Any) -> Any:
        def solve(y: Any) -> Any:
            return diffrax.diffeqsolve(
                term,
                kinds[solver](),
                ts[0],
                ts[-1],
                STEP if case.steps else None,
                y,
                p,
                saveat=diffrax.SaveAt(ts=ts),
                stepsize_controller=controller,
                adjoint=adjoint,
                max_steps=case.steps or 256,
            ).ys

        if not vmapped:
            return solve(y)
        axis = 1 if case.first else 0
        return jax.vmap(solve, axis, axis + 1)(y)

    checkpoints, backsolve = diffrax.RecursiveCheckpointAdjoint(), diffrax.BacksolveAdjoint()
    ways: list[tuple[str, bool, Any, tuple[str, ...]]] = [
        ("diffrax shared", False, checkpoints, ("forward", "both")),
        ("diffrax shared", False, backsolve, ("both",)),
        ("diffrax vmap", True, checkpoints, ("forward", "both")),
    ]
    for solver, (group, vmapped, adjoint, works) in itertools.product(case.solvers, ways):
        name = f"{group} {solver}" + (" backsolve" if adjoint is backsolve else "")
        if chosen not in name:
            continue
        run = partial(path, solver, adjoint, vmapped)
        compiled = jax_works(run, g, [w for w in works if w in asked], (start, parameters))
        yield Method(group, name, read=partial(read_jax, case), **compiled)
    for remat in (False, True) if case.steps else ():
        name = f"jax scan{' checkpoint' if remat else ''}"
        if chosen in name:
            compiled = jax_works(partial(scan, case, remat), g, asked[remat:], (start, parameters))
            yield Method("scan", name, read=partial(read_jax, case), **compiled)


def scan(case: Case, remat: bool, y: Any, p: Any) -> Any:
    """The classical Runge–Kutta method as a loop written by hand; `remat`: the way back takes every step again."""
    import jax
    import jax.numpy as jnp

    def step(y: Any, _: Any) -> Any:
        k1 = case.twin(0.0, y, p)
        k2 = case.twin(0.0, y + STEP / 2 * k1, p)
        k3 = case.twin(0.0, y + STEP / 2 * k2, p)
        k4 = case.twin(0.0, y + STEP * k3, p)
        return y + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    end, _ = jax.lax.scan(jax.checkpoint(step) if remat else step, y, length=case.steps)
    return jnp.stack([y, end])


def methods(case: Case, chosen: str = "") -> Iterator[Method]:
    """All that are installed, and whose name contains `chosen`."""
    yield from (m for m in ours(case) if chosen in m.name)
    if present("torchdiffeq"):
        yield from (m for m in torchdiffeq_methods(case) if chosen in m.name)
    if present("diffrax"):
        yield from jax_methods(case, chosen)


def truth(case: Case) -> tuple[Tensor, Sequence[Tensor]]:
    """The path and the gradients in double precision at 1e-10, by the eager engine."""
    how: dict[str, Any] = {"solver": "dopri8", "rtol": 1e-10, "atol": 1e-10}
    f, y0, g = case.field().double(), case.y0().double(), case.cotangents.double()
    return torch_works(lambda f, y: ic.solve(f, y, case.ts.double(), **how).ys, f, y0, g)["both"]()
