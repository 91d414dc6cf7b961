"""Forward sensitivities written with the expressions' own derivatives: against autograd through the solver."""

import pytest
import torch

import isocline
from isocline import Equations
from isocline.equations.functions import FUNCTIONS, HABITS
from isocline.equations.sensitivity import Sensitivities

F64 = torch.float64


def slopes_by_autograd(field, t, y, args):
    """d rate / d (raw, y, weights), (states, P) of one sample."""
    y = y.clone().requires_grad_()
    sources = [field.raw, y, *(p for net in field.remainders.values() for p in net.mlp.parameters())]
    rows = []
    for rate in field(t, y, *args):
        found = torch.autograd.grad(rate, sources, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros(s.numel(), dtype=F64) if g is None else g.flatten()
                    for g, s in zip(found, sources, strict=True)
                ]
            )
        )
    return torch.stack(rows)


@pytest.mark.parametrize(
    "rate",
    [
        "k*x + m - x/m", "x^k + m^2.5 + 2^x + (x + m)^(k*m)", "-(x - k)*-m", "where(x > k and not x < m, k*x, m/x)",
        "min(x, k, m) + max(x, k*m, 0.1)", "exp(sin(k*t)*x) + log(m*x + pi)", "where(x < 100, 3, k)",
        "net(x, k*m, t, width=5) * m", "x*net1(x, width=4, depth=2) + net2(k, net1(m), activation=softplus, width=3)",
        "net(x, width=4, activation=sigmoid)",
        *(f"{f}(k*x + 0.1*m)" for f, function in FUNCTIONS.items() if function.count == 1),
    ],
)  # fmt: skip
def test_derivatives_of_expressions_are_those_of_autograd(rate):
    field = Equations(f"dx = {rate} + 0*k*m", parameters=["k = 0.7 in [0, 5]", "m > 0"])
    both = Sensitivities(field, initial=1, weights=True)
    t, y = torch.tensor(0.3, dtype=F64), torch.tensor([0.45], dtype=F64)
    s = torch.zeros(1, both.directions, dtype=F64)
    s[0, len(field.free)] = 1.0
    with torch.no_grad():
        rates, found = both.split(both(t, both.join(y, s)))
    torch.testing.assert_close(rates, field(t, y), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found, slopes_by_autograd(field, t, y, ()), rtol=1e-11, atol=1e-13)


def test_at_zero_a_power_and_at_a_tie_a_maximum_have_the_derivatives_pytorch_gives():
    field = Equations("dx = k*x^2 + max(x, m) + abs(x)", parameters=["k", "m = 0"])
    both = Sensitivities(field, initial=1)
    y, s = torch.zeros(1, dtype=F64), torch.tensor([[0.0, 0.0, 1.0]], dtype=F64)
    found = both.split(both(torch.tensor(0.0), both.join(y, s)))[1]
    torch.testing.assert_close(found, slopes_by_autograd(field, torch.tensor(0.0), y, ()))


@pytest.mark.machine
def test_a_solve_with_sensitivities_is_fused_and_exact():
    text = (
        "dx = -k*x^n*exp(-x) + net(x, z, width=4)*z; dz = c*min(x, z, 2) - where(z > x, z, k)/sqrt(x + 1) + sin(t*k)*w"
    )
    field = Equations(text, covariates=["w"], parameters=["k = 0.3 in [0, 5]", "n > 0"])
    both = Sensitivities(field, initial=2, weights=True)
    generator = torch.Generator().manual_seed(0)
    y0, w = torch.rand(3, 2, generator=generator, dtype=F64) + 0.5, torch.rand(3, generator=generator, dtype=F64)
    s0 = torch.zeros(3, 2, both.directions, dtype=F64)
    s0[:, 0, len(field.free)] = s0[:, 1, len(field.free) + 1] = 1.0
    options = {"engine": "fused", "batching": "per_sample", "args": ({"w": w},), "rtol": 1e-9, "atol": 1e-11}
    with torch.no_grad():
        y, s = both.split(isocline.solve(both, both.join(y0, s0), [0.0, 2.0], **options).ys[-1])
    start = y0.clone().requires_grad_()
    end = isocline.solve(field, start, [0.0, 2.0], **options).ys[-1]
    torch.testing.assert_close(y, end, rtol=1e-8, atol=1e-8)
    weights = list(field.nets["net"].mlp.parameters())
    for j in range(2):
        raw, first, *rest = torch.autograd.grad(end[1, j], [field.raw, start, *weights], retain_graph=True)
        want = torch.cat([raw, first[1], *(g.flatten() for g in rest)])
        torch.testing.assert_close(s[1, j], want, rtol=1e-7, atol=1e-7)


def test_habits_from_elsewhere_lead_to_functions_that_exist():
    for advice in HABITS.values():
        assert any(name in advice for name in (*FUNCTIONS, "net", "x^"))
