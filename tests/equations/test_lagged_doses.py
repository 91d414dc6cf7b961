"""Doses that arrive after a lag: the course and its derivatives, also by the lag, against closed forms."""

import math

import pytest
import torch

from isocline import Equations
from isocline.equations import EquationError, Measured, estimate, population
from isocline.equations.course import Settings
from isocline.equations.individuals import Individuals
from isocline.inputs import ZeroOrderHold

F64 = torch.float64
T = torch.linspace(0, 12, 25, dtype=F64)
ORAL = "dgut = -ka*gut; dx = ka*gut - k*x; gut(0) = 0; x(0) = 0"
VALUES = {"ka": 1.3, "k": 0.3, "tlag": 0.83}


def absorbed(ka, k, lag, t, amount=10.0):
    """x of a dose into the gut at time 0 that arrives at `lag`."""
    since = (t - lag).clamp(min=0.0)
    return amount * ka / (ka - k) * (torch.exp(-k * since) - torch.exp(-ka * since))


def path(field, series, ts, values, columns=("x",)):
    """Columns and their derivatives by all free parameters as they are, in natural units."""
    raw = torch.tensor([[p.raw(values[p.name]) for p in field.free]], dtype=F64)
    found, slopes = Individuals(field, [series], ts[None], columns, Settings(), raw[0])(raw, [0])
    natural = torch.stack([torch.as_tensor(p.slope(raw[0, i])) for i, p in enumerate(field.free)])
    return found[0], slopes[0] / natural


def exact(function, field, values):
    """As `path`, of a function of the parameters by name."""
    x = torch.tensor([values[p.name] for p in field.free], dtype=F64)
    jacobian = torch.autograd.functional.jacobian(lambda x: function(**dict(zip(field.names, x, strict=True))), x)
    return function(**values), jacobian


def test_one_compartment_with_absorption_and_a_lag_has_the_course_and_the_derivatives_of_its_formula():
    field = Equations(f"{ORAL}; lag(gut) = tlag", parameters=["ka > 0", "k > 0", "tlag > 0"])
    series = Measured(T, {"x": T * 0}, doses={"gut": ([0.0, 4.0], [10.0, 6.0])})

    def formula(ka, k, tlag):
        return absorbed(ka, k, tlag, T) + absorbed(ka, k, tlag, T - 4.0, 6.0)

    (found, slopes), (want, jacobian) = path(field, series, T, VALUES), exact(formula, field, VALUES)
    torch.testing.assert_close(found[:, 0], want, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slopes[:, 0], jacobian, rtol=1e-5, atol=1e-6)


def test_what_is_given_at_once_over_a_while_and_into_other_states_keeps_its_own_times():
    """A lagged bolus and a lagged infusion, beside a dose that is not late, of which one comes before and one after another."""
    text = "dx = -k*x; dy = -k*y; x(0) = 0; y(0) = 1; lag(x) = 2*tlag; f(x) = share; both = x + y"
    field = Equations(text, parameters=["k > 0", "tlag > 0", "share in [0, 1]"])
    doses = {"x": ([0.0, 1.0], [5.0, 8.0], [0.0, 3.0]), "y": ([1.5], [4.0])}
    series = Measured(T, {"both": T * 0}, doses=doses)

    def formula(k, tlag, share):
        lag, rate = 2 * tlag, share * 8.0 / 3.0
        bolus = torch.where(lag < T, 5.0 * share * torch.exp(-k * (T - lag)), 0.0)
        since = T - 1.0 - lag
        flown = rate / k * (1 - torch.exp(-k * since.clamp(0, 3))) * torch.exp(-k * (since - 3).clamp(min=0))
        beside = torch.exp(-k * T) + torch.where(T > 1.5, 4.0 * torch.exp(-k * (T - 1.5)), 0.0)
        return bolus + flown + beside

    values = {"k": 0.4, "tlag": 0.43, "share": 0.7}
    found, slopes = path(field, series, T, values, ("both",))
    want, jacobian = exact(formula, field, values)
    torch.testing.assert_close(found[:, 0], want, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slopes[:, 0], jacobian, rtol=1e-5, atol=1e-6)


def test_the_derivative_by_a_lag_of_equations_without_a_formula_is_that_of_differences():
    """Saturable elimination driven by an input, at a dose into a state that is not at rest."""
    text = "dx = u*0.3*x/(1 + 0.2*x) - vm*x/(2 + x); x(0) = 1; lag(x) = exp(a)"
    field = Equations(text, inputs=["u"], parameters=["vm > 0", "a"])
    drive = {"u": ZeroOrderHold([0.0, 3.0], torch.tensor([1.0, 2.0], dtype=F64))}
    series = Measured(T, {"x": T * 0}, doses={"x": ([1.0, 2.0], [4.0, 3.0])}, inputs=drive)
    values = {"vm": 1.1, "a": -0.2}
    _, slopes = path(field, series, T, values)
    for i, name in enumerate(field.names):
        ends = [path(field, series, T, {**values, name: values[name] + h})[0][:, 0] for h in (1e-4, -1e-4)]
        torch.testing.assert_close(slopes[:, 0, i], (ends[0] - ends[1]) / 2e-4, rtol=1e-5, atol=1e-6)


def test_a_reset_cancels_what_has_not_arrived_yet_and_what_still_flows():
    field = Equations("dx = -k*x; x(0) = a; lag(x) = tlag", parameters=["k > 0", "a > 0", "tlag > 0"])
    doses = {"x": ([2.5, 0.5, 3.0], [7.0, 8.0, 2.0], [0.0, 4.0, 0.0])}
    series = Measured(T, {"x": T * 0}, doses=doses, resets=[3.0])

    def formula(k, a, tlag):
        since = T - 0.5 - tlag
        before = a * torch.exp(-k * T) + 2.0 / k * (1 - torch.exp(-k * since.clamp(min=0)))
        again = T - 3.0
        after = a * torch.exp(-k * again) + torch.where(again > tlag, 2.0 * torch.exp(-k * (again - tlag)), 0.0)
        return torch.where(T > 3.0, after, before)

    values = {"k": 0.4, "a": 1.5, "tlag": 0.7}
    (found, slopes), (want, jacobian) = path(field, series, T, values), exact(formula, field, values)
    torch.testing.assert_close(found[:, 0], want, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slopes[:, 0], jacobian, rtol=1e-5, atol=1e-6)


def test_a_lag_that_is_none_is_no_lag():
    late = Equations("dx = -k*x; x(0) = 1; lag(x) = tlag", parameters=["k > 0", "tlag = 0 fixed"])
    series = Measured(T, {"x": T * 0}, doses={"x": ([0.0, 3.0], [2.0, 1.0])}, resets=[3.0])
    plain = Equations("dx = -k*x; x(0) = 1", parameters="k > 0")
    for a, b in zip(path(late, series, T, {"k": 0.3}), path(plain, series, T, {"k": 0.3}), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_a_lag_is_estimated_and_its_error_is_that_of_the_formula():
    draw = torch.Generator().manual_seed(2)
    ts = torch.tensor([0.3, 1.1, 1.4, 2.0, 3.0, 5.0, 8.0, 12.0], dtype=F64)
    noisy = absorbed(1.3, 0.3, 0.83, ts) + 0.05 * torch.randn(len(ts), generator=draw, dtype=F64)
    field = Equations(f"{ORAL}; lag(gut) = tlag", parameters=["ka > 0", "k = 0.5 > 0", "tlag = 0.5 > 0"])
    fit = estimate(field, Measured(ts, {"x": noisy}, doses={"gut": ([0.0], [10.0])}))
    assert fit["tlag"].value == pytest.approx(0.83, abs=2.5 * fit["tlag"].error) and fit["tlag"].error < 0.05
    values = {name: fit[name].value for name in field.names}
    _, jacobian = exact(lambda ka, k, tlag: absorbed(ka, k, tlag, ts), field, values)
    covariance = torch.linalg.inv(jacobian.T @ jacobian) * fit.noise["x"] ** 2
    assert fit["tlag"].error == pytest.approx(math.sqrt(float(covariance[2, 2])), rel=1e-4)


def test_each_series_may_have_a_lag_of_its_own():
    draw = torch.Generator().manual_seed(4)
    ts = torch.tensor([0.5, 0.8, 1.2, 1.6, 2.5, 4.0, 8.0], dtype=F64)
    lags = 0.7 * torch.exp(0.3 * torch.randn(10, generator=draw, dtype=F64))
    noise = 0.1 * torch.randn(10, len(ts), generator=draw, dtype=F64)
    data = [
        Measured(ts, {"x": absorbed(1.3, 0.3, lag, ts) + e}, doses={"gut": ([0.0], [10.0])}, id=str(i))
        for i, (lag, e) in enumerate(zip(lags, noise, strict=True))
    ]
    field = Equations(f"{ORAL}; lag(gut) = tlag", parameters=["ka > 0", "k = 0.5 > 0", "tlag = 0.3 > 0 per series"])
    fit = population(field, data, rtol=1e-6)  # from far below: some begin with a lag that is one row too early
    assert fit["tlag"].value == pytest.approx(0.7, abs=3 * fit["tlag"].error)
    assert fit["tlag"].sd == pytest.approx(float(lags.log().std()), rel=0.3)
    own = torch.tensor([one["tlag"] for one in fit.individuals.values()], dtype=F64)
    torch.testing.assert_close(own, lags, rtol=0.1, atol=0.0)


@pytest.mark.slow
def test_warfarin_has_its_published_lag(rows):
    """Known of these data is a lag of about 0.8 to 0.9 h; the likelihood is the highest that five starts came to."""
    by = {}
    for row in rows("pk_warfarin", "warfarin.csv"):
        if row["dvid"] == "cp":
            by.setdefault(row["id"], []).append(row)
    data = []
    for name, group in by.items():
        seen = [r for r in group if r["evid"] == "0"]
        dose = next(r for r in group if r["evid"] == "1")
        columns = {"conc": [float(r["dv"]) for r in seen]}
        doses = {"gut": ([0.0], [float(dose["amt"])])}
        data.append(
            Measured([float(r["time"]) for r in seen], columns, {"wt": float(dose["wt"])}, doses=doses, id=name)
        )
    text = """
    dgut = -ka*gut; dcentral = ka*gut - cl*(wt/70)^0.75*conc; gut(0) = 0; central(0) = 0
    conc = central/(v*wt/70); lag(gut) = tlag
    """
    parameters = [
        "ka > 0 per series unit 1/h", "cl = 0.1 > 0 per series unit L/h", "v = 10 > 0 per series unit L",
        "tlag = 0.5 > 0 per series unit h",
    ]  # fmt: skip
    fit = population(Equations(text, covariates=["wt"], parameters=parameters), data, noise="combined", rtol=1e-6)
    assert 0.8 < fit["tlag"].value < 0.9 and fit.log_likelihood == pytest.approx(-326.68, abs=0.1)
    assert fit["cl"].value == pytest.approx(0.134, abs=0.002) and fit["v"].value == pytest.approx(8.1, abs=0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dx = -k*x; lag(y) = 1", "y is no state"),
        ("dx = -k*x; lag(x) = x", r"lag\(x\) rests on x, expected parameters, covariates and numbers"),
        ("dx = -k*x; lag(x) = 1; lag(x) = 2", r"lag\(x\) is given twice"),
        ("dx = -k*x; alag(x) = 1", r"the time until it does lag\(x\) = …"),
    ],
)
def test_a_lag_that_is_none_is_pointed_at(text, says):
    with pytest.raises(EquationError, match=says):
        Equations(text)


def test_a_lag_is_written_as_text_that_reads_the_same_and_below_zero_it_is_refused():
    field = Equations("dx = -k*x; x(0) = 0; lag(x) = tlag", parameters="k > 0; tlag = -0.5")
    assert "lag(x) = tlag" in str(field) and Equations(field.text()).text() == field.text()
    data = Measured([1.0, 2.0], {"x": [1.0, 0.5]}, doses={"x": ([0.0], [2.0])})
    with pytest.raises(ValueError, match=r"a lag of -0\.5, expected 0 or more; give its parameter a bound"):
        estimate(field, data)
    with pytest.raises(ValueError, match=r"a lag of -0\.5, expected 0 or more"):
        population(field, [data, data])
