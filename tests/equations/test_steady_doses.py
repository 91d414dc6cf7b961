"""Doses before which the same was given for ever: steady states and their derivatives, against closed forms and long records."""

import pytest
import torch

from isocline import Equations
from isocline.equations import Measured, estimate
from isocline.equations.course import Settings
from isocline.equations.individuals import Individuals
from isocline.inputs import LinearInterpolation

F64 = torch.float64
T = torch.linspace(0, 11.5, 24, dtype=F64)
BOLUS = "dx = -k*x; x(0) = 3"


def path(text, parameters, values, doses, ts=T, columns=("x",)):
    """Columns and their derivatives by all parameters, in natural units."""
    field = Equations(text, parameters=parameters)
    series = Measured(ts, {columns[0]: ts * 0}, doses=doses)
    raw = torch.tensor([[p.raw(values[p.name]) for p in field.free]], dtype=F64)
    times = torch.cat([torch.zeros(1, dtype=F64), ts]).unique()
    found, slopes = Individuals(field, [series], times[None], columns, Settings(), raw[0])(raw, [0])
    natural = torch.stack([torch.as_tensor(p.slope(raw[0, i])) for i, p in enumerate(field.free)])
    return found[0, -len(ts) :, 0], slopes[0, -len(ts) :, 0] / natural


def check(found, formula, values):
    """Course and derivatives."""
    x = torch.tensor(list(values.values()), dtype=F64)
    torch.testing.assert_close(found[0], formula(x), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found[1], torch.autograd.functional.jacobian(formula, x), rtol=1e-5, atol=1e-6)


def test_a_bolus_at_every_interval_has_the_trough_of_the_geometric_series():
    """x(0⁻) = D q/(1 - q), q = exp(-k τ), whatever x(0) is; the row at the time of the dose shows it."""
    values = {"k": 0.05, "share": 0.8}  # forgets 5 % in an interval: a hundred intervals would not do
    doses = {"x": ([0.0, 8.0], [10.0, 4.0], [0.0, 0.0], [1.0, 0.0])}
    found = path(f"{BOLUS}; f(x) = share", ["k > 0", "share in [0, 1]"], values, doses)

    def formula(x):
        q = torch.exp(-x[0])
        trough = 10.0 * x[1] * q / (1 - q)
        y = (trough + torch.where(T > 0, 10.0 * x[1], 0.0)) * torch.exp(-x[0] * T)
        return y + torch.where(T > 8, 4.0 * x[1] * torch.exp(-x[0] * (T - 8)), 0.0)

    check(found, formula, values)


def test_absorption_with_a_lag_in_steady_state_is_the_sum_of_all_doses_before():
    """ADVAN2's formula at steady state, shifted: x(φ) = D ka/(ka - k) Σ, φ the time since the last arrival."""
    text = "dgut = -ka*gut; dx = ka*gut - k*x; gut(0) = 0; x(0) = 0; lag(gut) = tlag"
    values = {"ka": 1.1, "k": 0.15, "tlag": 0.83}
    tau = 6.0
    found = path(text, [f"{n} > 0" for n in values], values, {"gut": ([0.0], [10.0], [0.0], [tau])})

    def formula(x):
        ka, k, lag = x
        since = T - lag  # of the last dose; those before it arrived 6, 12, … earlier
        past = torch.where(since < 0, since + tau, since)

        def term(rate):
            return torch.exp(-rate * past) / (1 - torch.exp(-rate * tau))

        return 10.0 * ka / (ka - k) * (term(k) - term(ka))

    check(found, formula, values)


@pytest.mark.parametrize("lag", [0.0, 0.7, 2.6])
@pytest.mark.parametrize("over", [1.5, 4.0, 7.5])
def test_infusions_in_steady_state_also_where_several_flow_at_once(over, lag):
    """Against so many doses written out that what is missing is below rounding."""
    tau, at, many = 3.0, 0.5, 60
    late = [] if lag == 0 else ["tlag > 0"]
    text = "dx = -k*x; x(0) = 0; f(x) = share" + ("; lag(x) = tlag" if late else "")
    values = {"k": 0.5, "share": 0.8} | ({"tlag": lag} if late else {})
    parameters = ["k > 0", "share > 0", *late]
    short = path(text, parameters, values, {"x": ([at], [6.0], [over], [tau])}, T[1:])
    ts = T[1:] + many * tau
    times = [at + i * tau for i in range(many + 1)]
    long = path(text, parameters, values, {"x": (times, [6.0] * len(times), [over] * len(times))}, ts)
    torch.testing.assert_close(short[0], long[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(short[1], long[1], rtol=1e-5, atol=1e-5)


def test_saturable_elimination_comes_to_the_steady_state_of_a_long_record():
    text = "dgut = -ka*gut; dx = ka*gut - vm*x/(km + x); gut(0) = 0; x(0) = 0"
    values = {"ka": 1.1, "vm": 5.0, "km": 3.0}
    parameters = [f"{n} > 0" for n in values]
    short = path(text, parameters, values, {"gut": ([0.0], [40.0], [0.0], [12.0])})
    times = [12.0 * i for i in range(41)]
    long = path(text, parameters, values, {"gut": (times, [40.0] * 41)}, T + 480.0)
    torch.testing.assert_close(short[0], long[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(short[1], long[1], rtol=1e-4, atol=1e-4)


def test_a_steady_state_in_the_middle_forgets_what_was_before_and_series_may_differ():
    field = Equations("dx = -k*x; x(0) = 0", parameters="k > 0")
    doses = [
        {"x": ([0.0, 4.0, 8.0], [9.0, 5.0, 2.0], [0.0] * 3, [0.0, 2.0, 1.0])},
        {"x": ([1.0], [7.0], [2.5])},
        {"x": ([2.0], [3.0], [0.0], [4.0])},
    ]
    data = [Measured(T, {"x": T * 0}, doses=d) for d in doses]
    raw = torch.zeros(3, 1, dtype=F64)  # k = 1
    found, _ = Individuals(field, data, T.expand(3, -1), ["x"], Settings(), raw[0])(raw, [0, 1, 2])

    def trough(amount, tau):
        return amount / torch.expm1(torch.tensor(tau, dtype=F64))

    def fall(level, at):
        return level * torch.exp(-(T - at))

    first = torch.where(T > 0, fall(9.0, 0.0), 0.0)
    first = torch.where(T >= 4, fall(trough(5.0, 2.0) + torch.where(T > 4, 5.0, 0.0), 4.0), first)
    first = torch.where(T >= 8, fall(trough(2.0, 1.0) + torch.where(T > 8, 2.0, 0.0), 8.0), first)
    since = (T - 1.0).clamp(min=0)
    second = 2.8 * (1 - torch.exp(-since.clamp(max=2.5))) * torch.exp(-(since - 2.5).clamp(min=0))
    third = torch.where(T >= 2, fall(trough(3.0, 4.0) + torch.where(T > 2, 3.0, 0.0), 2.0), 0.0)
    for b, want in enumerate((first, second, third)):
        torch.testing.assert_close(found[b, :, 0], want, rtol=1e-6, atol=1e-8)


def test_a_rate_is_estimated_from_one_interval_in_steady_state():
    ts = torch.tensor([0.0, 1.0, 3.0, 6.0, 12.0], dtype=F64)
    y = 10.0 / (1 - torch.exp(torch.tensor(-0.2 * 12.0))) * torch.exp(-0.2 * ts)
    y[0] = y[-1]  # the trough before the dose
    field = Equations("dx = -k*x; x(0) = 0", parameters="k > 0")
    fit = estimate(field, Measured(ts, {"x": y}, doses={"x": ([0.0], [10.0], [0.0], [12.0])}))
    assert fit["k"].value == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "options", "doses", "says"),
    [
        ("dx = -k*x*t; x(0) = 0", {}, ([0.0], [1.0], [0.0], [2.0]), "equations in which t stands have none"),
        ("dx = u - k*x; x(0) = 0", {"inputs": ["u"]}, ([0.0], [1.0], [0.0], [2.0]), "equations with inputs have none"),
        ("dx = -k*x; x(0) = 0; dy = x; y(0) = 0", {}, ([0.0], [1.0], [0.0], [2.0]), "no steady state of 1 at every 2"),
        ("dx = -k*x; x(0) = 0; lag(x) = 3", {}, ([0.0], [1.0], [0.0], [2.0]), "a lag as long as the interval"),
        ("dx = -k*x/(1 + x); x(0) = 0", {}, ([0.0], [9.0], [0.0], [2.0]), "the states come to none"),
    ],
)
def test_where_there_is_no_steady_state_it_is_said(text, options, doses, says):
    drive = {name: LinearInterpolation([0.0, 9.0], torch.ones(2, dtype=F64)) for name in options.get("inputs", ())}
    with pytest.raises(ValueError, match=says):
        estimate(
            Equations(text, parameters="k > 0", **options), Measured(T, {"x": T}, inputs=drive, doses={"x": doses})
        )


def test_two_steady_states_at_a_time_and_an_interval_below_zero_are_refused():
    steady = ([0.0], [1.0], [0.0], [2.0])
    with pytest.raises(ValueError, match="two steady states at 0, of x and y"):
        Measured(T, {"x": T}, doses={"x": steady, "y": steady})
    with pytest.raises(ValueError, match=r"interval -1, expected 0 \(no steady state\)"):
        Measured(T, {"x": T}, doses={"x": ([0.0], [1.0], [0.0], [-1.0])})
