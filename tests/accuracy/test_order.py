"""Every solver has its stated order, at the end of its steps and between them; the grid finds new solvers by itself."""

import functools
import math

import pytest
import torch

import isocline as ic
from isocline.solvers import RungeKutta, Solver

F64 = torch.float64
# Numbers of steps, by order: enough for the leading error term to show, few enough to stay above the rounding of 1e-15.
STEPS = {
    1: (256, 512),
    2: (128, 256),
    3: (64, 128),
    4: (64, 128),
    5: (32, 64),
    6: (16, 32),
    7: (12, 24),
    8: (12, 24),
    9: (8, 12),
}
# Where the leading term shows later.
FINER = {"bdf": (64, 128)}
# Where the leading error term of a method happens to cancel, another end.
ENDS = {"ken_carp4": 2.0}
# Every solver with its default settings, and some whose order depends on the settings.
SOLVERS = {n: cls() for n, cls in sorted(Solver.registry.items()) if issubclass(cls, RungeKutta) and not cls.wants_pair}
SOLVERS |= {f"reversible {base}": ic.Reversible(base) for base in ("bosh3", "rk4", "dopri5")}


def nonautonomous(t, y):
    return y * torch.cos(t)


def nonlinear(t, y):
    return torch.stack((y[1], -torch.sin(y[0]) + 0.3 * torch.cos(t)))


def linear(t, y):
    return torch.stack((y[1], -y[0]))


CASES = {
    "linear": (linear, (1.0, 0.0), lambda t: (math.cos(t), -math.sin(t))),
    "non-autonomous": (nonautonomous, (1.0,), lambda t: (math.exp(math.sin(t)),)),
    "nonlinear": (nonlinear, (1.0, 0.2), None),
}


def together(t, y):
    """The three problems side by side in one state, which explicit methods solve as they would each alone."""
    parts = y.split([len(y0) for _, y0, _ in CASES.values()])
    return torch.cat([f(t, part) for (f, _, _), part in zip(CASES.values(), parts, strict=True)])


@functools.cache
def ends(end):
    """The solution of each problem at the end."""
    from scipy.integrate import solve_ivp

    def found(f, y0, exact):
        if exact:
            return exact(end)
        g = lambda t, y: f(torch.tensor(t, dtype=F64), torch.tensor(y)).numpy()
        return solve_ivp(g, (0, end), y0, method="DOP853", rtol=1e-13, atol=1e-15).y[:, -1]

    return [torch.tensor(found(*case), dtype=F64) for case in CASES.values()]


def slope(errors, steps):
    return math.log(errors[0] / errors[-1]) / math.log(steps[0] / steps[-1])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_has_its_stated_order(name):
    """On each of three problems no less, on all of them together no more."""
    order, end = SOLVERS[name].order, ENDS.get(name, 3.0)
    steps = FINER.get(name, STEPS[order])
    y0 = torch.tensor([x for _, start, _ in CASES.values() for x in start], dtype=F64)
    missed = []
    for n in steps:
        y = ic.solve(together, y0, [0.0, end], solver=SOLVERS[name], step=end / n).ys[-1]
        want = ends(end)
        missed.append([a - b for a, b in zip(y.split([len(x) for x in want]), want, strict=True)])
    lengths = [1 / n for n in steps]
    for case, errors in zip(CASES, zip(*missed, strict=True), strict=True):
        errors = [float(error.abs().max()) for error in errors]
        # A problem may happen to cancel the leading error term: more than the order is no fault on one of three.
        assert slope(errors, lengths) > order - 0.2, case
        assert errors[-1] < 1e-2, case
    # Made reversible, a method gains from the errors of Ψ_h and Ψ_−h, which cancel in part: an order at even ones.
    if not name.startswith("reversible"):
        slopes = [slope([float(error.norm()) for error in errors], lengths) for errors in zip(*missed, strict=True)]
        # At orders 8, 9 rounding (1e-15) is close to the errors.
        assert abs(min(slopes) - order) < 0.2 + 0.3 * (order > 7)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_interpolant_has_its_stated_order(name):
    """One step of length h: the worst error inside it falls like h^(order + 1) (the local error).

    Over several starts, since the leading term of one may nearly cancel.
    """
    order = SOLVERS[name].dense_order
    f, y0, _ = CASES["non-autonomous"]
    theta = torch.linspace(0.1, 0.9, 9, dtype=F64)
    errors = []
    steps = {1: (0.02, 0.01), 2: (0.05, 0.025), 5: (0.6, 0.3), 9: (0.6, 0.4)}.get(order, (0.2, 0.1))
    for h in steps:
        worst = 0.0
        for start in (0.0, 0.5, 1.5, 2.5):
            sol = ic.solve(f, torch.tensor(y0, dtype=F64), [start, start + h], solver=SOLVERS[name], step=h, dense=True)
            t = start + theta * h
            exact = torch.exp(torch.sin(t) - math.sin(start))
            worst = max(worst, float((sol.at(t)[:, 0] - exact).abs().max()))
        errors.append(worst)
    assert slope(errors, steps) > order + 1 - 0.25


@pytest.mark.parametrize("name", [n for n, solver in SOLVERS.items() if solver.error_order])
def test_an_adaptive_solve_keeps_its_tolerance(name):
    f, y0, exact = CASES["linear"]
    # Fehlberg's estimate is h²y″/512 where the error of a step is h³y‴/6; with 2√2 for norms and scales, 5 · 512/6 · 2√2.
    # With n steps of error tol the end is wrong by n · tol; of order 1 and 2 there are many steps.
    # That of KenCarp5 nearly vanishes on oscillations: 25 and 78 times the tolerance, with nine steps at 1e-6.
    slack = {"fehlberg2": 1200, "ken_carp5": 100}.get(name) or {1: 6000, 2: 300}.get(SOLVERS[name].order, 50)
    for tol in (1e-4, 1e-6):
        sol = ic.solve(f, torch.tensor(y0, dtype=F64), [0.0, 2.0, 5.0], solver=SOLVERS[name], rtol=tol, atol=tol)
        enough = max(slack, 2 * 2**0.5 * sol.stats.accepted) if SOLVERS[name].remembers else slack
        for y, t in zip(sol.ys, (0.0, 2.0, 5.0), strict=True):
            assert float((y - torch.tensor(exact(t), dtype=F64)).abs().max()) < enough * tol


def test_a_high_order_method_keeps_its_accuracy_between_steps():
    """torchdiffeq's dopri8 loses four orders of magnitude there."""
    t = torch.linspace(0, 6, 200, dtype=F64)
    ys = ic.solve(linear, torch.tensor((1.0, 0.0), dtype=F64), t, solver="dopri8", rtol=1e-9, atol=1e-9).ys
    assert float((ys - torch.stack((torch.cos(t), -torch.sin(t)), 1)).abs().max()) < 1e-7


def test_derivative_of_the_solution_is_the_field():
    sol = ic.solve(nonautonomous, torch.ones(2, dtype=F64), [0.0, 2.0], rtol=1e-9, atol=1e-11, dense=True)
    t = torch.linspace(0.1, 1.9, 12, dtype=F64)
    assert torch.allclose(sol.derivative(t), sol.at(t) * torch.cos(t)[:, None], rtol=1e-5)
