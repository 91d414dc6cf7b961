"""What the peers can do, and the line that does it here: writes features.md. `python docs/features.py`.

Every line is run, with its check, before the page is written; a test does the same.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

import isocline as ic

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Features, beside the peers

Made by `docs/features.py`, which runs every line below and checks what it says; a test keeps this page true.

✔: the package has it. ◐: in part, or with a known fault. The columns are of torchdiffeq (its repository; the released wheel has
14 of the 24 methods), torchode 1.0.1, torchdyn 1.0.6 and diffrax 0.7.2, read in their sources in November 2026. isocline has
every line. Beyond these pages' subject, and not here: stochastic, delay and differential-algebraic equations. `f` is
`lambda t, y: -y`, `y0` is `torch.ones(3, 2)` in float64, `k` a parameter.
"""

# section, feature, (torchdiffeq torchode torchdyn diffrax), the lines that do it
Row = tuple[str, str, str, str]
FEATURES: list[Row] = [
    ("Solvers", "explicit, orders 1 to 9", "✔ ✔ ✔ ✔", 'sol = solve(f, y0, [0.0, 1.0], solver="vern9")'),
    ("", "implicit, stiff, adaptive, in batch", "◐ . ◐ ✔", 'sol = solve(f, y0, [0.0, 1.0], solver="kvaerno5")'),
    ("", "Rosenbrock", ". . . .", 'sol = solve(f, y0, [0.0, 1.0], solver="rodas5_p")'),
    ("", "implicit–explicit", ". . . ✔", 'sol = solve(ic.Split(lambda t, y: 0 * y, f), y0, [0.0, 1.0], solver="ken_carp4")'),
    ("", "… for fast and slow waves", ". . . ✔", 'sol = solve(ic.Split(lambda t, y: 0 * y, f), y0, [0.0, 1.0], solver="sil3")'),
    ("", "Adams, orders to 12", "✔ . . .", "sol = solve(f, y0, [0.0, 1.0], solver=ic.AdamsMoulton(order=8))"),
    ("", "backward differentiation, order and step of each sample", ". . . .", 'sol = solve(f, y0, [0.0, 1.0], solver="bdf", batching="per_sample")'),
    ("", "leapfrog/midpoint", ". . . ✔", 'sol = solve(f, y0, [0.0, 1.0], solver="leapfrog_midpoint", step=1e-3)'),
    ("", "asynchronous leapfrog", ". . ◐ .", 'sol = solve(f, y0, [0.0, 1.0], solver="asynchronous_leapfrog", step=1e-3)'),
    ("", "symplectic, velocity Verlet and order 4", ". . . ◐", 'sol = solve(ic.second_order(lambda t, x, v: -x), (y0, 0 * y0), [0.0, 1.0], solver="yoshida4", step=0.1)'),
    ("", "reversible", ". . . ✔", 'sol = solve(f, y0, [0.0, 1.0], solver=ic.Reversible("tsit5"))'),
    ("", "hypersolvers", ". . ✔ .", 'sol = solve(f, y0, [0.0, 1.0], solver=ic.Hyper("rk4", lambda t, y, dy: 0 * y), step=0.1)'),
    ("", "parallel in time", ". . ✔ .", "sol = ic.parareal(f, y0, [0.0, 0.5, 1.0])"),
    ("", "your own tableau", ". ✔ ✔ ✔", 'class Mine(ic.ExplicitRungeKutta): tableau = ic.Ralston.tableau\nsol = solve(f, y0, [0.0, 1.0], solver=Mine(), step=1e-3)'),
    ("", "a method that switches when it gets stiff", ". . . .", 'sol = solve(f, y0, [0.0, 1.0], solver="auto_switch")'),
    ("", "SciPy's methods", "✔ . . .", 'sol = solve(f, y0, [0.0, 1.0], solver=ic.solvers.Scipy("LSODA"))'),
    ("Steps and output", "PI and PID control", ". ✔ . ✔", "sol = solve(f, y0, [0.0, 1.0], controller=ic.PID.pi(1e-6))"),
    ("", "shortest, longest, first step", "✔ ✔ . ✔", "sol = solve(f, y0, [0.0, 1.0], controller=ic.PID(min_step=1e-6, max_step=0.1, first_step=0.01))"),
    ("", "times stepped to, jumps of f", "✔ . ◐ ✔", "sol = solve(f, y0, [0.0, 1.0], step_ts=[0.3], jump_ts=[0.5])"),
    ("", "never evaluated outside the interval", ". ✔ ◐ ✔", "seen = []\nsol = solve(lambda t, y: seen.append(float(t)) or -y, y0, [0.0, 1.0])\nassert max(seen) <= 1.0"),
    ("", "a step size of each sample", ". ✔ . ✔", 'sol = solve(f, y0, [0.0, 1.0], batching="per_sample")'),
    ("", "times of each sample, ragged", ". ✔ . ✔", 'sol = solve(f, y0, [[0.0, 1.0], [0.2, 0.5, 1.2], [0.0, 3.0]], batching="per_sample")\nassert sol.ys.shape[0] == 3'),
    ("", "dense output, derivatives of it", "◐ . ◐ ✔", "sol = solve(f, y0, [0.0, 1.0], dense=True)\nassert sol.at(0.5).allclose(-sol.derivative(0.5), atol=1e-4)"),
    ("", "outputs after steps, of functions, in groups", ". . . ✔", 'sol = solve(f, y0, [0.0, 1.0], save={"norm": ic.Save(ts=[0.1, 0.9], fn=lambda t, y: y.norm()), "steps": ic.Save(every=2)})\nassert sol.saved["norm"].values.shape == (2,)'),
    ("", "one step at a time, going on later", ". . ◐ ✔", "sol = ic.Stepper(f, y0, 0.0, 0.5)\nlist(sol)\nsol.extend(1.0)\nlist(sol)"),
    ("", "back in time", "✔ ✔ ✔ ✔", "sol = solve(f, y0 * math.exp(-2.0), [2.0, 1.0])"),
    ("", "progress", ". . . ✔", "told = []\nsol = solve(f, y0, [0.0, 1.0], progress=lambda done, t, steps: told.append(done))\nassert told[-1] == 1.0"),
    ("Events", "that end a solve, with direction", "✔ . . ✔", "sol = solve(f, y0, [0.0, 9.0], events=ic.Event(lambda t, y: y.max() - math.exp(-1.0), direction=-1))"),
    ("", "that change the state and go on", ". . ◐ .", "sol = solve(f, y0, [0.0, 1.0], events=ic.Event(lambda t, y: y.max() - 0.5, reset=lambda t, y: y))"),
    ("", "of each sample", ". . . ✔", 'sol = solve(f, y0, [0.0, 9.0], events=ic.Event(lambda t, y: y[:, 0] - math.exp(-1.0)), batching="per_sample")\nassert sol.event_ts.shape == (1, 3)'),
    ("", "with the gradient of their time", "✔ . . ✔", "sol = solve(lambda t, y: -k * y, y0, [0.0, 9.0], events=ic.Event(lambda t, y: y.max() - math.exp(-1.0)))\n(g,) = torch.autograd.grad(sol.event_ts[0], k)\nassert abs(float(g) + 1) < 1e-5"),
    ("", "a steady state, differentiable", ". . . ✔", "sol = ic.steady_state(lambda t, y: math.exp(-1.0) * k - y, y0)"),
    ("Gradients", "exact, through the steps", "✔ ✔ ✔ ✔", 'sol = solve(f, y0, [0.0, 1.0], gradient="backprop")'),
    ("", "exact, with checkpoints in a budget of bytes", ". . . ✔", "sol = solve(f, y0, [0.0, 1.0], gradient=ic.Checkpointed(memory=1 << 20))"),
    ("", "continuous adjoint, seminorm", "✔ ✔ ✔ ✔", "sol = solve(f, y0, [0.0, 1.0], gradient=ic.Backsolve(seminorm=True))"),
    ("", "along the stored solution", ". . ◐ .", 'sol = solve(f, y0, [0.0, 1.0], gradient="interpolating")'),
    ("", "by quadrature of the parameters' part", ". . . .", 'sol = solve(f, y0, [0.0, 1.0], gradient="gauss_adjoint")'),
    ("", "reversible, no states kept", ". . . .", 'sol = solve(f, y0, [0.0, 1.0], solver="reversible_heun", step=1e-3, gradient="reversible_adjoint")'),
    ("", "forward mode", "◐ ✔ . ✔", "_, g = torch.func.jvp(lambda k: solve(lambda t, y: -k * y, y0, [0.0, 1.0]).ys[-1], (k.detach(),), (torch.ones_like(k),))\nassert abs(float(g[0, 0]) + math.exp(-1.0)) < 1e-5"),
    ("", "second derivatives", "◐ ◐ ◐ ✔", "g = torch.func.hessian(lambda k: solve(lambda t, y: -k * y, y0, [0.0, 1.0]).ys[-1, 0, 0])(k.detach())\nassert abs(float(g) - math.exp(-1.0)) < 1e-5"),
    ("", "of all times", "✔ . ◐ ✔", "ts = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)\nsol = solve(f, y0, ts)\n(g,) = torch.autograd.grad(sol.ys[-1, 0, 0], ts)\nassert abs(float(g[0] - g[1]) - 2 * math.exp(-1.0)) < 1e-5"),
    ("", "a running loss", ". . ✔ .", "total = ic.integral(f, lambda t, y: y.square().sum())"),
    ("", "a check of a gradient before it is trusted", ". . . .", "assert ic.audit.reconstruction(f, y0, [0.0, 1.0]) < 1e-5"),
    ("Types and transforms", "complex states", "◐ . ✔ ◐", "sol = solve(lambda t, y: -y, y0.to(torch.complex128), [0.0, 1.0])"),
    ("", "half precision, autocast", "◐ . . .", 'with torch.autocast("cpu", torch.bfloat16):\n    sol = solve(f, y0, [0.0, 1.0])'),
    ("", "any structure of tensors", "◐ . ◐ ✔", 'sol = solve(lambda t, y: {"a": -y["a"]}, {"a": y0}, [0.0, 1.0])'),
    ("", "arguments of f", ". ✔ ◐ ✔", "sol = solve(lambda t, y, k: -k * y, y0, [0.0, 1.0], args=(k,))"),
    ("", "measured inputs u(t)", ". . ◐ ✔", "sol = solve(lambda t, y, u: -u * y, y0, [0.0, 1.0], inputs=ic.LinearInterpolation([0.0, 1.0], torch.ones(2, 1, dtype=torch.float64)))"),
    ("", "vmap", ". . ◐ ✔", "out = torch.func.vmap(lambda y: solve(f, y, [0.0, 1.0]).ys[-1])(y0)\nassert out.shape == y0.shape"),
    ("", "torch.compile, whole graph", ". . . ✔", 'run = torch.compile(lambda y: solve(f, y, [0.0, 1.0], solver="rk4", step=0.1, engine="unrolled").ys[-1], fullgraph=True, backend="eager")\nassert run(y0).shape == y0.shape'),
    ("Reports", "counts, of each sample", ". ✔ ◐ ◐", 'sol = solve(f, y0, [0.0, 1.0], batching="per_sample")\nassert sol.stats.evaluations.shape == (3,)'),
    ("", "a limit of steps, and what was reached", ". ✔ . ✔", "sol = solve(f, y0, [0.0, 1.0], max_steps=2, throw=False)\nassert sol.status is ic.Status.MAX_STEPS"),
    ("", "a sample that fails leaves the others alone", ". . . ✔", 'sol = solve(lambda t, y: y**3, torch.tensor([[1.0], [0.1]]), [0.0, 1.0], batching="per_sample", throw=False)\nassert sol.status.tolist() != [0, 0] and bool(sol.ys[-1, 1].isfinite().all())'),
    ("", "why it failed", ". . . .", "try:\n    solve(lambda t, y: y * y, y0, [0.0, 2.0])\nexcept ic.SolveError as error:\n    why = error.status\nassert why is ic.Status.BLOW_UP"),
    ("", "callbacks at every step", "✔ . . .", "seen = []\nsol = solve(f, y0, [0.0, 1.0], observer=ic.Observer(accepted=lambda t, y, h: seen.append(t)))\nassert len(seen) == sol.stats.accepted"),
    ("", "the literature behind a solve", ". . . ✔", 'assert "Tsitouras" in ic.cite(ic.Tsit5())'),
    ("Models", "neural ODE, augmented, second order", ". . ✔ .", "from isocline.nn import MLP, AugmentedODE, NeuralODE, SecondOrderODE"),
    ("", "continuous flows, exact and estimated trace", "◐ . ✔ ◐", "from isocline.nn import CNF"),
    ("", "latent ODE, ODE-RNN", "◐ . ◐ ◐", "from isocline.nn import ODERNN, LatentODE"),
    ("", "Hamiltonian, Lagrangian", ". . ✔ .", "from isocline.nn import HamiltonianODE, LagrangianODE"),
    ("", "neural CDE", ". . . ◐", "from isocline.nn import NeuralCDE"),
    ("", "layers that depend on depth", ". . ✔ .", "from isocline.nn import ConcatSquash, Galerkin, HyperLinear, TimeMLP"),
]  # fmt: skip


def run(code: str) -> None:
    """Runs a line. One with an assert of its own checks itself; of the others `sol` ends where dy/dt = −y does."""
    y0 = torch.ones(3, 2, dtype=torch.float64)
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    names: dict[str, Any] = {"torch": torch, "ic": ic, "solve": ic.solve, "math": __import__("math")}
    names |= {"f": lambda t, y: -y, "y0": y0, "k": k}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code.strip(), names)
    sol = names.get("sol")
    if sol is None or "assert" in code:
        return
    end = sol.y if hasattr(sol, "y") else sol.ys
    end = end[0] if isinstance(end, tuple) else end["a"] if isinstance(end, dict) else end
    end = end[-1] if end.dim() > 2 else end
    end = sol.event_ys[-1] if bool(end.isnan().any()) else end  # an event was the end
    want = torch.cos(torch.tensor(1.0)) if "second_order" in code else torch.tensor(-1.0).exp()
    loose = 2e-2 if "autocast" in code else 1e-3
    assert bool((end.detach() - want).abs().max() < loose), f"{code}: {end}"


def shown(code: str) -> str:
    """The lines of a row, each as code: without the checks, where there is more than the check."""
    lines = code.strip().splitlines()
    lines = [line for line in lines if not line.startswith("assert ")] or [
        line.removeprefix("assert ") for line in lines
    ]
    indented = [line.replace("    ", "\u00a0" * 4).replace("|", "\\|") for line in lines]
    return "<br>".join(f"`{line}`" for line in indented)


def page() -> str:
    """The whole page; AssertionError where a line does not do what it says."""
    lines = [HEAD.rstrip("\n")]
    for section, feature, peers, code in FEATURES:
        run(code)
        if section:
            lines += [
                f"\n## {section}\n",
                "| | torchdiffeq | torchode | torchdyn | diffrax | here |",
                f"|---|{':-:|' * 4}---|",
            ]
        marks = [mark.replace(".", "") for mark in peers.split(" ")]
        lines.append(f"| {feature} | {' | '.join(marks)} | {shown(code)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name}: {len(FEATURES)} features")
