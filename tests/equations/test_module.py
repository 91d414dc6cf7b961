"""Equations as a field: right in every shape, in every engine, learnable, kept and exported."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import isocline
from isocline import Equations
from isocline.equations.functions import FUNCTIONS

F64 = torch.float64
TANKS = """
out = k*sqrt(max(level1, 0.01))
dlevel1 = -out + b*pump*w + net(level1, level2)
dlevel2 = out - k2*sqrt(abs(level2)) + where(t > 0.5 and level1 < 2, c, sin(t))
"""


def tanks(**options):
    return Equations(
        TANKS, inputs=["pump"], covariates=["w"], parameters=["k = 0.3 in [0, 5]", "k2 > 0", "c = 2 fixed"], **options
    )


def by_hand(t, y, pump, w, net, k=0.3, k2=1.0, b=1.0, c=2.0):
    level1, level2 = y.unbind(-1)
    out = k * level1.clamp(min=0.01).sqrt()
    first = -out + b * pump * w + net(torch.stack([level1, level2], -1))
    there = (t > 0.5) & (level1 < 2)
    return torch.stack([first, out - k2 * level2.abs().sqrt() + torch.where(there, c, torch.sin(t))], -1)


# ---- values -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lead", [(), (5,), (4, 5)], ids=str)
@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_the_field_is_what_the_equations_say_in_every_shape(lead, form):
    field = tanks()
    generator = torch.Generator().manual_seed(0)
    y = 4 * torch.rand(*lead, 2, generator=generator, dtype=F64)
    u, w = torch.rand(*lead, 1, generator=generator, dtype=F64), torch.rand(*lead, 1, generator=generator, dtype=F64)
    # Per-sample times have the batch first and dimensions of size one behind it.
    rows = [torch.rand(*lead[:1], *[1] * len(lead), generator=generator, dtype=F64)] if lead else []
    for t in (torch.tensor(0.7, dtype=F64), *rows):
        want = by_hand(t.squeeze(-1) if t.dim() else t, y, u[..., 0], w[..., 0], field.nets["net"])
        args = (u, w) if form == "tensor" else ({"pump": u[..., 0]}, {"w": w})
        torch.testing.assert_close(field(t, y, *args), want, rtol=1e-14, atol=1e-14)


def test_a_rate_that_is_a_number_is_one_for_every_sample():
    field = Equations("dx = 2; dy = k")
    assert field(torch.tensor(0.0), torch.zeros(3, 2, dtype=F64)).tolist() == [[2.0, 1.0]] * 3


def test_states_in_single_precision_stay_single():
    field = Equations("dx = -k*x^2 + where(x > 1, 1, 0) + c", parameters=["k > 0", "c = 2 fixed"])
    assert field(torch.tensor(0.0), torch.ones(3, 1)).dtype == torch.float32


def test_definitions_and_states_can_be_observed():
    field = Equations("dx = -r; r = k*x; cm = 100*x")
    y = torch.tensor([[1.0], [2.0]], dtype=F64)
    assert field.observe(["cm", "x", "r"], torch.tensor(0.0), y).tolist() == [[100, 1, 1], [200, 2, 2]]
    with pytest.raises(ValueError, match="cmm: neither a state nor a definition; there are x, r, cm"):
        field.observe(["cmm"], torch.tensor(0.0), y)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_what_its_name_says(name):
    x = torch.tensor([[0.3], [0.9]], dtype=F64)
    other = {"ln": torch.log, "softplus": nn.functional.softplus}.get(name) or getattr(torch, name, None)
    count = FUNCTIONS[name].count
    arguments = {1: "x", 2: "x, 0.5", 3: "x < 0.5, x, 2"}[count]
    want = {2: lambda: torch.clamp(x, max=0.5) if name == "min" else torch.clamp(x, min=0.5)}.get(count)
    want = want or (lambda: torch.where(x < 0.5, x, 2.0) if name == "where" else other(x))
    torch.testing.assert_close(Equations(f"dx = {name}({arguments})")(torch.tensor(0.0), x), want(), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda f, y: f(0.0, y), r"called with 0 arguments behind t and y, expected \(t, y, u, covariates\)"),
        (lambda f, y: f(torch.tensor(0.0), y, {"pmp": 1.0}, {"w": 1.0}), "u: no pump in it"),
        (lambda f, y: f(torch.tensor(0.0), y, torch.ones(5, 3), torch.ones(5, 1)), r"u: shape \(5, 3\), expected"),
        (lambda f, y: f(torch.tensor(0.0), y, 3.0, torch.ones(5, 1)), "u: expected a tensor"),
        (lambda f, y: f.assign({"c": 1.0}), "c: no free parameter"),
        (lambda f, y: f.assign({"k": 7.0}), "k = 7.0: expected a number between 0 and 5"),
        (lambda f, y: Equations(3), "text: expected equations"),
    ],
)
def test_a_wrong_argument_is_named(unchecked, call, says):
    with pytest.raises((TypeError, ValueError), match=says):
        call(tanks(), torch.ones(5, 2, dtype=F64))


# ---- solves -----------------------------------------------------------------------------------------------------------
def solved(field, engine):
    y0 = torch.tensor([[1.0, 0.5], [2.5, 1.0], [0.7, 2.0]], dtype=F64)
    pump = isocline.LinearInterpolation([0.0, 1.0, 2.0], torch.tensor([1.0, 2.0, 0.0], dtype=F64))
    w = torch.tensor([[0.5], [1.0], [1.5]], dtype=F64)
    ts = torch.linspace(0, 2, 5, dtype=F64)
    return isocline.solve(
        field, y0, ts, solver="rk4", step=0.1, engine=engine, batching="per_sample", inputs=pump, args=(w,)
    ).ys


@pytest.mark.machine
def test_the_fused_engine_takes_it_and_gives_the_same_numbers_and_gradients():
    found = []
    for engine in ("fused", "eager"):
        field = tanks()
        ys = solved(field, engine)
        ys.square().sum().backward()
        found.append([ys.detach(), *(p.grad for p in field.parameters())])
    for fused, eager in zip(*found, strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-12, atol=1e-12)


def test_exponential_decay_and_its_sensitivity():
    field = Equations("dx = -k*x", parameters="k = 0.5 in [0, 2]")
    y0 = torch.ones(1, 1, dtype=F64)
    ys = isocline.solve(field, y0, [0.0, 2.0], engine="auto", batching="per_sample", rtol=1e-10, atol=1e-12).ys
    assert ys[-1].item() == pytest.approx(math.exp(-1.0), rel=1e-8)
    (slope,) = torch.autograd.grad(ys[-1].sum(), field.raw)
    # d/dk = -2 exp(-1), and dk/draw of a logit in [0, 2] at 0.5: 2·¼·¾.
    assert slope.item() == pytest.approx(-2 * math.exp(-1.0) * 0.375, rel=1e-8)


def test_bounds_hold_however_far_a_step_goes():
    field = Equations("dx = -k*x + m", parameters=["k in [0, 2]", "m > 1"])
    with torch.no_grad():
        field.raw.copy_(torch.tensor([30.0, -30.0], dtype=F64))
    assert 0 <= field.values["k"] <= 2 and field.values["m"] >= 1


# ---- text -------------------------------------------------------------------------------------------------------------
def test_it_prints_itself_with_the_values_it_has():
    field = tanks()
    field.assign({"k": 0.25, "b": -3.0})
    assert str(field) == (
        "out = k*sqrt(max(level1, 0.01))\n"
        "dlevel1/dt = -out + b*pump*w + net(level1, level2)\n"
        "dlevel2/dt = out - k2*sqrt(abs(level2)) + where(t > 0.5 and level1 < 2, c, sin(t))\n"
        "k = 0.25 in [0, 5]\nk2 = 1 in [0, inf]\nc = 2 fixed\nb = -3"
    )
    assert field.text(values=True).splitlines()[1] == "dlevel1/dt = -out - 3*pump*w + net(level1, level2)".replace(
        "- 3", "+ -3"
    )


def test_what_it_prints_makes_the_same_field_again():
    field = tanks()
    field.assign({"k": 0.2500001, "b": -3.0})
    again = Equations(
        field.text(), states=field.states, inputs=["pump"], covariates=["w"], parameters=field.declarations()
    )
    y = torch.rand(5, 2, dtype=F64)
    u, w, t = torch.rand(5, 1, dtype=F64), torch.rand(5, 1, dtype=F64), torch.tensor(0.7, dtype=F64)
    assert torch.equal(again(t, y, u, w), field(t, y, u, w))
    numbers = Equations(field.text(values=True, digits=17), states=field.states, inputs=["pump"], covariates=["w"])
    assert numbers.raw is None
    assert torch.equal(numbers(t, y, u, w), field(t, y, u, w))


# ---- keeping ----------------------------------------------------------------------------------------------------------
def test_it_pickles_and_copies_and_loads_its_state():
    field = tanks()
    field.assign({"k": 0.25})
    y, u, w = torch.rand(5, 2, dtype=F64), torch.rand(5, 1, dtype=F64), torch.rand(5, 1, dtype=F64)
    want = field(torch.tensor(0.7), y, u, w)
    other = tanks(seed=7)
    other.load_state_dict(field.state_dict())
    for same in (pickle.loads(pickle.dumps(field)), copy.deepcopy(field), other):
        assert torch.equal(same(torch.tensor(0.7), y, u, w), want)
        assert str(same) == str(field)


def test_seeds_decide_the_networks_and_every_network_has_its_own():
    field = Equations("dx = net1(x) + net2(x)")
    weights = [net.mlp.layers[0].weight for net in field.nets.values()]
    assert not torch.equal(*weights)
    assert torch.equal(weights[0], Equations("dx = net1(x) + net2(x)").nets["net1"].mlp.layers[0].weight)
    assert not torch.equal(weights[0], Equations("dx = net1(x)", seed=1).nets["net1"].mlp.layers[0].weight)


@pytest.mark.machine
@pytest.mark.parametrize("write", [isocline.export.to_c, isocline.export.to_js])
def test_it_is_exported_as_source(write):
    source = write(
        tanks(), torch.ones(2, dtype=F64), inputs=[torch.ones(1, dtype=F64)], args=(torch.ones(1, dtype=F64),)
    )
    assert "model_solve" in source or "solve" in source


def test_torch_export_takes_it():
    field = tanks()
    example = (
        torch.tensor(0.7, dtype=F64),
        torch.rand(5, 2, dtype=F64),
        torch.rand(5, 1, dtype=F64),
        torch.rand(5, 1, dtype=F64),
    )
    program = torch.export.export(field, example)
    torch.testing.assert_close(program.module()(*example), field(*example))


# ---- networks ---------------------------------------------------------------------------------------------------------
def test_networks_are_brought_to_the_size_of_the_data():
    field = Equations("dx = -k*x + 0.5*net(x, y, t); dy = x", states=["x", "y"])
    y = torch.stack([torch.linspace(0, 400, 9, dtype=F64), torch.linspace(1, 1, 9, dtype=F64)], -1)
    t = torch.linspace(0, 8, 9, dtype=F64).unsqueeze(1)
    field.adapt(t, y, slopes=torch.full((9, 2), 30.0, dtype=F64))
    net = field.nets["net"]
    assert net.center.tolist() == [200.0, 1.0, 4.0]
    assert net.spread.tolist() == pytest.approx([y[:, 0].std(unbiased=False).item(), 1.0, t.std(unbiased=False).item()])
    assert net.gain.item() == pytest.approx(60.0)
