"""Split fields: the stiff part implicitly, the rest explicitly, with the order of both and exact gradients."""

import math

import pytest
import torch

import isocline as ic

F64 = torch.float64
Y0 = torch.tensor([1.0, 2.0], dtype=F64)


def growth(t, y):
    x, z = y.unbind(-1)
    return torch.stack((x, x * z), -1)


def loss_of_both(t, y):
    x, z = y.unbind(-1)
    return torch.stack((-x * z, -z), -1)


PREDATORS = ic.Split(explicit=growth, implicit=loss_of_both)  # Lotka and Volterra's


def relaxing(rate, w):
    """sin(wt) is the slow path; the stiffness is in the implicit part."""
    return ic.Split(
        explicit=lambda t, y: w * torch.cos(w * t) + 0.0 * y, implicit=lambda t, y: -rate * (y - torch.sin(w * t))
    )


def rate(t, y):
    return torch.stack((y[..., 1], 0.3 * torch.cos(t).reshape(y.shape[:-1])), -1)


def force(t, y):
    return torch.stack((torch.zeros_like(y[..., 0]), -torch.sin(y[..., 0])), -1)


SPLITS = {
    "predators": PREDATORS,
    # Their implicit parts are linear in what they are solved for: one correction is exact, and says nothing of the next.
    "implicit force": ic.Split(rate, force),
    "implicit rate": ic.Split(force, rate),
}


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("solver", ["ken_carp3", "ken_carp4", "ken_carp5", "sil3"])
def test_a_split_is_solved_with_the_order_of_the_pair(solver, name, batching):
    y0 = Y0 if batching == "shared" else Y0[None]
    want = ic.solve(SPLITS[name], Y0, [0.0, 2.0], solver="dopri8", rtol=1e-13, atol=1e-15).ys[-1]
    order = ic.Solver.named(solver).order
    steps = (32, 64) if order == 5 else (64, 128)
    errors = [
        float(
            (
                ic.solve(SPLITS[name], y0, [0.0, 2.0], solver=solver, step=2.0 / n, batching=batching).ys[-1] - want
            ).norm()
        )
        for n in steps
    ]
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.2


def test_between_steps_it_has_the_order_of_the_interpolant():
    """One step of length h: the worst error inside falls like h⁴, of order 3 and locally."""
    theta, errors = torch.linspace(0.1, 0.9, 9, dtype=F64), []
    for h in (0.05, 0.025):
        sol = ic.solve(PREDATORS, Y0, [0.0, h], solver="ken_carp4", step=h, dense=True)
        ts = torch.cat((torch.zeros(1, dtype=F64), theta * h))
        want = ic.solve(PREDATORS, Y0, ts, solver="dopri8", rtol=1e-13, atol=1e-15).ys[1:]
        errors.append(float((sol.at(theta * h) - want).abs().max()))
    assert math.log2(errors[0] / errors[1]) > 4 - 0.25


def test_only_the_implicit_part_limits_nothing():
    """An explicit method takes thousands of steps; here they are those of the slow path. Newton never sees the rest."""
    recorded = []

    def explicit(t, y):
        recorded.append(y.requires_grad)
        return torch.cos(t) + 0.0 * y

    split = ic.Split(explicit, lambda t, y: -1e5 * (y - torch.sin(t)))
    with torch.no_grad():
        sol = ic.solve(split, torch.zeros(3, 1, dtype=F64), [0.0, 2.0], solver="ken_carp4", rtol=1e-4, atol=1e-6)
    assert sol.stats.accepted + sol.stats.rejected < 200
    assert torch.allclose(sol.ys[-1], torch.sin(torch.tensor(2.0, dtype=F64)).expand(3, 1), atol=1e-4)
    assert not any(recorded)  # no Jacobian is taken of it


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("gradient", ["checkpointed", "backprop"])
@pytest.mark.parametrize("solver", ["ken_carp4", "sil3"])
def test_gradients_are_those_of_the_discretisation(solver, gradient, batching):
    def loss(rate, w, y0):
        options = {"solver": solver, "step": 0.05, "batching": batching, "gradient": gradient}
        ys = ic.solve(relaxing(rate, w), y0, [0.0, 0.33, 1.0], **options).ys
        return (ys**2).sum() + ys[1].sum()

    inputs = [torch.tensor(x, dtype=F64, requires_grad=True) for x in (200.0, 1.3, [[0.1], [0.2]])]
    grads = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    for i, (g, h) in enumerate(zip(grads, (1e-3, 1e-5, 1e-5), strict=True)):
        ends = [loss(*(y + s * h if i == j else y for j, y in enumerate(inputs))).item() for s in (1, -1)]
        assert g.sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-9)
    (second,) = torch.autograd.grad(grads[1], inputs[1])
    ends = []
    for s in (1e-5, -1e-5):
        w = (inputs[1].detach() + s).requires_grad_()
        ends.append(torch.autograd.grad(loss(inputs[0].detach(), w, inputs[2].detach()), w)[0].item())
    assert second.item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_other_solvers_take_the_sum_and_structures_pass(unchecked):
    split = ic.Split(lambda t, y: {"a": y["a"] * 0, "b": y["a"]}, lambda t, y: {"a": -y["a"], "b": y["b"] * 0})
    y0 = {"a": torch.ones(2, dtype=F64), "b": torch.zeros(2, dtype=F64)}
    for solver in ("tsit5", "ken_carp4", "kvaerno5"):
        ys = ic.solve(split, y0, [0.0, 1.0], solver=solver, rtol=1e-8, atol=1e-10).ys
        assert torch.allclose(ys["b"][-1], 1 - torch.exp(torch.tensor(-1.0, dtype=F64)).expand(2), rtol=1e-6)
    with pytest.raises(TypeError, match="implicit is a float, expected a callable"):
        ic.Split(lambda t, y: y, 1.0)


def test_inputs_reach_both_parts():
    ts = torch.linspace(0, 2, 9, dtype=F64)
    u = ic.LinearInterpolation(ts, torch.sin(ts))
    split = ic.Split(lambda t, y, u: u + 0.0 * y, lambda t, y, u: -50 * (y - u))
    whole = lambda t, y, u: u - 50 * (y - u)
    y0, options = torch.zeros(1, dtype=F64), {"inputs": u, "rtol": 1e-8, "atol": 1e-10}
    got = ic.solve(split, y0, [0.0, 2.0], solver="ken_carp4", **options).ys[-1]
    assert torch.allclose(got, ic.solve(whole, y0, [0.0, 2.0], solver="kvaerno5", **options).ys[-1], rtol=1e-6)


def test_a_pair_that_misses_a_condition_is_refused():
    from isocline.solvers.additive import check

    tableau, partner = ic.KenCarp4.tableau, ic.KenCarp4.partner
    check(tableau.a, partner.a, tableau.b, 4)
    wrong = ((0.5,), (0.2, 0.132), *partner.a[2:])
    with pytest.raises(ValueError, match=r"misses the order-[34] condition"):
        check(tableau.a, wrong, tableau.b, 4)
