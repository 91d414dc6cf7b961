"""The teaching version gives the right numbers, and the library's with the same steps; its pages print what they say."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import isocline as ic

LEARN = Path(__file__).parents[1] / "docs" / "learn"
F64 = torch.float64


def load(name):
    spec = importlib.util.spec_from_file_location(name, LEARN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scratch = load("from_scratch")


class Scalar(nn.Module):
    """f = sin(t) z + θ z² at θ = 0.3: the equation of the table of time gradients."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(0.3, dtype=F64))

    def forward(self, t, z):
        return torch.sin(t) * z + self.theta * z**2


class Net(nn.Module):
    """2-8-2, reads the time, with one parameter that nothing uses."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 8, dtype=F64), nn.Linear(8, 2, dtype=F64)
        self.unused = nn.Parameter(torch.ones(3, dtype=F64))

    def forward(self, t, z):
        return self.outer(torch.tanh(self.inner(z) * torch.cos(t)))


def gradients(solve, field, z0, ts, weights):
    """(dL/dz0, dL/dts, dL/dθ…) of L = Σ weights · z(t_i)."""
    z0, ts = z0.clone().requires_grad_(), ts.clone().requires_grad_()
    path = solve(field, z0, ts)
    params = tuple(field.parameters())
    grads = torch.autograd.grad((weights * path).sum(), (z0, ts, *params), allow_unused=True)
    return path.detach(), [
        torch.zeros_like(x) if g is None else g for g, x in zip(grads, (z0, ts, *params), strict=True)
    ]


def teaching(h_max):
    return lambda field, z0, ts: scratch.NeuralODE(field, h_max)(z0, ts)


def library(h_max):
    # The check is about the gradient's worth; here both are wanted with the same, coarse steps.
    options = {"solver": "euler", "max_step": h_max, "gradient": ic.Backsolve(check="off")}
    return lambda field, z0, ts: ic.solve(field, z0, ts, **options).ys


def table_problem():
    weights = torch.tensor([[0.7], [-1.1], [0.9]], dtype=F64)
    return Scalar(), torch.tensor([0.5], dtype=F64), torch.tensor([0.1, 0.9, 1.6], dtype=F64), weights


def net_problem(backwards=False, batch=False):
    ts = torch.tensor([0.0, 0.3, 0.37, 1.1], dtype=F64)
    z0 = torch.randn(3, 2, dtype=F64) if batch else torch.randn(2, dtype=F64)
    return Net(), z0, -ts if backwards else ts, torch.randn(4, *z0.shape, dtype=F64)


def test_the_time_gradients_are_those_of_the_table():
    field, z0, ts, weights = table_problem()
    coarse, fine = (gradients(teaching(h), field, z0, ts, weights)[1] for h in (2e-3, 1e-3))
    # Euler's error is c h + O(h²): extrapolating takes away the first term; what remains is about h² = 4e-6 times a
    # second derivative in h of order e^(∫ ∂f/∂z) ≈ 20.
    dz0, dts, *_ = (2 * f - c for c, f in zip(coarse, fine, strict=True))
    assert dts.tolist() == pytest.approx([-0.474745, -0.961708, 3.175000], abs=2e-4)
    assert dz0.item() == pytest.approx(4.500495, abs=2e-4)


def test_its_gradients_are_finite_differences_in_the_limit():
    field, z0, ts, weights = table_problem()

    def loss(z0=z0, ts=ts, theta=0.3):
        with torch.no_grad():
            field.theta.fill_(theta)
            value = (weights * ic.solve(field, z0, ts, solver="dopri8", rtol=1e-12, atol=1e-13).ys).sum().item()
            field.theta.fill_(0.3)
        return value

    eps = 1e-5
    shift = torch.eye(3, dtype=F64) * eps
    wanted = [
        (loss(z0=z0 + eps) - loss(z0=z0 - eps)) / (2 * eps),
        *((loss(ts=ts + s) - loss(ts=ts - s)) / (2 * eps) for s in shift),
        (loss(theta=0.3 + eps) - loss(theta=0.3 - eps)) / (2 * eps),
    ]
    errors = []
    for h_max in (0.002, 0.001):
        _, (dz0, dts, dtheta) = gradients(teaching(h_max), field, z0, ts, weights)
        got = torch.stack([dz0[0], *dts, dtheta])
        errors.append((got - torch.tensor(wanted, dtype=F64)).abs())
    # First order: half the step, half the error; the slope is held to ±0.2. Steps this small because in
    # dL/dt_0 the coefficient of h is small beside that of h².
    slopes = torch.log2(errors[0] / errors[1])
    assert ((slopes - 1).abs() < 0.2).all(), slopes


@pytest.mark.parametrize("h_max", [0.05, 0.02, float("inf")])
@pytest.mark.parametrize(
    "problem",
    [table_problem, net_problem, lambda: net_problem(backwards=True), lambda: net_problem(batch=True)],
    ids=["table", "net", "backwards in time", "batch"],
)
def test_it_gives_the_librarys_numbers_with_the_same_steps(problem, h_max):
    field, z0, ts, weights = problem()
    ours, (dz0, dts, *dtheta) = gradients(teaching(h_max), field, z0, ts, weights)
    theirs, (lib_dz0, lib_dts, *lib_dtheta) = gradients(library(h_max), field, z0, ts, weights)
    # Same operations in another order of additions: a few hundred roundings of 1e-16.
    same = {"rtol": 1e-11, "atol": 1e-13}
    assert torch.allclose(ours, theirs, **same)
    assert torch.allclose(dz0, lib_dz0, **same)
    assert torch.allclose(dts[1:], lib_dts[1:], **same)
    assert all(torch.allclose(a, b, **same) for a, b in zip(dtheta, lib_dtheta, strict=True))


def test_the_two_rules_for_the_first_time_meet_at_first_order():
    # The teaching version integrates a_t, the library takes −a(t0⁺) f(t0, z0): equal for the exact adjoint, hence apart
    # by the order of the solver for a computed one.
    field, z0, ts, weights = table_problem()
    apart = []
    for h_max in (0.01, 0.005):
        _, ours = gradients(teaching(h_max), field, z0, ts, weights)
        _, theirs = gradients(library(h_max), field, z0, ts, weights)
        apart.append((ours[1][0] - theirs[1][0]).abs())
    assert torch.log2(apart[0] / apart[1]).item() == pytest.approx(1, abs=0.2)


def test_it_learns_the_linear_spiral():
    spiral = ic.problems.linear_spiral()
    ts = torch.linspace(0.0, 2.0, 20, dtype=F64)
    truth = spiral.solution(ts, spiral.y0, 0.0)
    field = nn.Module()
    field.matrix = nn.Parameter(torch.zeros(2, 2, dtype=F64))
    field.forward = lambda t, z: z @ field.matrix.T
    model = scratch.NeuralODE(field)
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    losses = []
    for _ in range(120):
        loss = (model(spiral.y0, ts) - truth).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def test_the_check_of_the_pages_finds_a_wrong_number(tmp_path):
    checks = load("checks")
    page = tmp_path / "page.md"
    page.write_text("Text.\n\n```python\n>>> 1 + 1\n3\n```\n\n>>> not in a block\n")
    result = checks.doctest.DocTestRunner().run(checks.examples(page), out=lambda text: None)
    assert (result.failed, result.attempted) == (1, 1)


def test_the_cells_of_a_page_are_run_in_order_and_an_error_is_one(tmp_path):
    checks = load("checks")
    page = tmp_path / "page.md"
    page.write_text("```{code-cell}\nx = 1\n```\n\n```{code-cell}\n:tags: [hide-input]\n\nassert x == 1\n```\n")
    assert checks.run_cells(page) == 2
    page.write_text(page.read_text().replace("x == 1", "x == 2"))
    with pytest.raises(AssertionError):
        checks.run_cells(page)


CHAPTERS = sorted(page.stem for page in LEARN.glob("*.md") if "{code-cell}" in page.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_cells_of_the_chapters_run(chapter):
    assert load("checks").run_cells(LEARN / f"{chapter}.md") > 0


def test_every_chapter_checks_its_equations_and_has_a_figure():
    chapters = ("solving", "learning", "chain", "adjoint", "parameters", "sixty-lines", "choosing")
    for number, name in enumerate(chapters, start=1):
        text = (LEARN / f"{name}.md").read_text()
        assert f"\n# {number}. " in text and "assert " in text and "drawing.show(" in text
        if number < 6:  # every displayed equation has its number, and every number is displayed once
            tags = re.findall(rf"\(({number}\.\d+)\)\s*\$\$", text)
            assert tags == [f"{number}.{i}" for i in range(1, len(tags) + 1)] and len(tags) >= 3
