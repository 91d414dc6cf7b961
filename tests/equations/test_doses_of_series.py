"""Doses into equations: jumps, infusions, the share that arrives; against closed forms."""

import math

import pytest
import torch

from isocline import Equations
from isocline.equations import EquationError, Measured, estimate
from isocline.equations.course import Settings
from isocline.equations.individuals import Individuals

F64 = torch.float64
T = torch.linspace(0, 8, 17, dtype=F64)


def decayed(k, share, bolus, infusion):
    """x of dx = -k x: a bolus at a time, an infusion from a time over a duration."""
    (at, amount), (begin, total, duration) = bolus, infusion
    x = torch.where(at < T, share * amount * torch.exp(-k * (T - at)), 0.0)
    rate = share * total / duration
    during = rate / k * (1 - torch.exp(-k * (T - begin).clamp(0, duration)))
    return x + during * torch.exp(-k * (T - begin - duration).clamp(min=0))


def test_boluses_and_infusions_and_what_arrives_of_them_are_fitted_in_one_solve_of_all_series():
    regimens = [((0.0, 4.0), (2.0, 3.0, 1.5)), ((1.0, 2.0), (3.0, 6.0, 2.0))]
    data = [
        Measured(T, {"x": decayed(0.7, 0.6, b, i)}, doses={"x": ([b[0], i[0]], [b[1], i[1]], [0.0, i[2]])})
        for b, i in regimens
    ]
    field = Equations("dx = -k*x; x(0) = 0; f(x) = share", parameters=["k = 0.5 > 0", "share = 0.9 in [0, 1]"])
    fit = estimate(field, data, rtol=1e-7, max_evaluations=12)
    assert fit["k"].value == pytest.approx(0.7, rel=1e-4) and fit["share"].value == pytest.approx(0.6, rel=1e-4)


def test_the_derivatives_by_parameters_pass_through_doses_and_infusions():
    doses = {"x": ([0.0, 2.0], [4.0, 3.0], [0.0, 1.5])}
    field = Equations("dx = -k*x; x(0) = 0; f(x) = share", parameters=["k > 0", "share in [0, 1]"])
    series = Measured(T, {"x": torch.zeros(17)}, doses=doses)
    raw = torch.tensor([[p.raw(v) for p, v in zip(field.free, (0.7, 0.6), strict=True)]], dtype=F64)
    values, slopes = Individuals(field, [series], T[None], ["x"], Settings(), raw[0])(raw, [0])
    k, share = (field.free[i].natural(raw[0, i]) for i in (0, 1))
    torch.testing.assert_close(values[0, :, 0], decayed(0.7, 0.6, (0.0, 4.0), (2.0, 3.0, 1.5)), rtol=1e-6, atol=1e-8)

    def exact(raw):
        k, share = field.free[0].natural(raw[0]), field.free[1].natural(raw[1])
        return decayed(k, share, (0.0, 4.0), (2.0, 3.0, 1.5))

    jacobian = torch.autograd.functional.jacobian(exact, raw[0])
    torch.testing.assert_close(slopes[0, :, 0], jacobian, rtol=1e-5, atol=1e-7)
    assert float(k) == pytest.approx(0.7) and float(share) == pytest.approx(0.6)


def test_after_a_reset_the_states_their_derivatives_and_what_flows_in_begin_again():
    """A bolus and an infusion that a reset at 3 cuts short; a bolus at the reset; another series without one."""
    field = Equations("dx = -k*x; x(0) = a", parameters=["k > 0", "a > 0"])
    doses = {"x": ([0.0, 2.0, 3.0], [4.0, 3.0, 1.0], [0.0, 1.5, 0.0])}
    begun = Measured(T, {"x": torch.zeros(17)}, doses=doses, resets=[3.0])
    plain = Measured(T, {"x": torch.zeros(17)}, doses={"x": ([1.0], [2.0])})
    raw = torch.tensor([[p.raw(v) for p, v in zip(field.free, (0.7, 0.5), strict=True)]] * 2, dtype=F64)
    found = Individuals(field, [begun, plain], T.expand(2, -1), ["x"], Settings(), raw[0])(raw, [0, 1])

    def exact(raw):
        k, a = (field.free[i].natural(raw[i]) for i in (0, 1))
        before = a * torch.exp(-k * T) + decayed(k, 1.0, (0.0, 4.0), (2.0, 3.0, 1.5))
        after = (a + torch.where(T > 3, 1.0, 0.0)) * torch.exp(-k * (T - 3))
        other = a * torch.exp(-k * T) + torch.where(T > 1, 2.0 * torch.exp(-k * (T - 1)), 0.0)
        return torch.stack([torch.where(T > 3, after, before), other])

    torch.testing.assert_close(found[0][..., 0], exact(raw[0]), rtol=1e-6, atol=1e-8)
    jacobian = torch.autograd.functional.jacobian(exact, raw[0])
    torch.testing.assert_close(found[1][:, :, 0], jacobian, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="resets: to what"):
        estimate(Equations("dx = -k*x"), Measured(T, {"x": torch.ones(17)}, resets=[1.0]))


def test_what_arrives_is_written_as_text_that_reads_the_same_and_is_refused_by_place():
    field = Equations("dx = -k*x; f(x) = 2*share")
    assert "f(x) = 2*share" in str(field) and Equations(field.text()).text() == field.text()
    with pytest.raises(EquationError, match="y is no state"):
        Equations("dx = -k*x; f(y) = 1")
    with pytest.raises(EquationError, match=r"f\(x\) rests on x, expected parameters, covariates and numbers"):
        Equations("dx = -k*x; f(x) = x")


@pytest.mark.parametrize(
    ("doses", "message"),
    [
        ({"x": ([0.0], [1.0, 2.0])}, "1 and 2 numbers, expected as many of each"),
        ({"x": ([0.0], [math.nan])}, "expected finite numbers"),
        ({"x": ([0.0], [1.0], [-1.0])}, "duration -1"),
        ({"x": [1.0]}, r"expected \(times, amounts\)"),
    ],
)
def test_a_dose_that_is_none_is_refused(doses, message):
    with pytest.raises(ValueError, match=message):
        Measured([0.0, 1.0], {"x": [1.0, 2.0]}, doses=doses)


def test_a_dose_before_the_start_is_refused():
    data = Measured([0.0, 1.0], {"x": [1.0, 2.0]}, doses={"x": ([-1.0], [1.0])})
    with pytest.raises(ValueError, match="one at -1, before the states start at 0"):
        estimate(Equations("dx = -k*x; x(0) = 1"), data)
