"""Estimates, standard errors and intervals: against closed forms, and plain words where there is nothing to estimate."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import isocline
from isocline import Equations
from isocline.equations import Measured, estimate

F64 = torch.float64
T = torch.linspace(0, 5, 21, dtype=F64)


def noise(count, size, seed=0):
    return size * torch.randn(count, dtype=F64, generator=torch.Generator().manual_seed(seed))


DECAY = 2 * torch.exp(-0.6 * T) + noise(21, 0.02)


# ---- closed forms -----------------------------------------------------------------------------------------------------
def test_a_straight_line_is_linear_regression():
    y = 3.0 - 0.7 * T + noise(21, 0.3)
    fit = estimate(Equations("dx = a; x(0) = b"), Measured(T, {"x": y}))
    want = stats.linregress(T, y)
    assert fit["a"].value == pytest.approx(want.slope, rel=1e-7)
    assert fit["b"].value == pytest.approx(want.intercept, rel=1e-7)
    assert fit["a"].error == pytest.approx(want.stderr, rel=1e-6)
    assert fit["b"].error == pytest.approx(want.intercept_stderr, rel=1e-6)
    mean, square = T.mean(), T.square().mean()
    assert float(fit.correlation[0, 1]) == pytest.approx(float(-mean / square.sqrt()), rel=1e-6)
    quantile = stats.t.ppf(0.975, 19)
    for name in ("a", "b"):
        p = fit.profile(name)
        half = quantile * fit[name].error
        assert (p.low, p.high) == pytest.approx((fit[name].value - half, fit[name].value + half), rel=2e-3)
        assert p.open_low == p.open_high == ""
    assert fit.freedom == 19 and fit.converged and not fit.messages


def test_the_errors_of_an_exponential_decay_are_those_of_its_formula():
    fit = estimate(Equations("dx = -k*x", parameters="k > 0 unit 1/h"), Measured(T, {"x": DECAY}))
    (k, a), _ = optimize.curve_fit(
        lambda t, k, a: a * np.exp(-k * t), T.numpy(), DECAY.numpy(), p0=(0.5, 2.0), ftol=1e-14
    )
    assert fit["k"].value == pytest.approx(k, rel=1e-6)
    assert fit["x(0)"].value == pytest.approx(a, rel=1e-6)
    decay = torch.exp(-k * T)
    jacobian = torch.stack([-a * T * decay, decay], 1)
    variance = float((DECAY - a * decay).square().sum()) / 19
    covariance = variance * torch.linalg.inv(jacobian.T @ jacobian)
    torch.testing.assert_close(fit.covariance, covariance, rtol=1e-5, atol=0)
    assert fit.noise["x"] == pytest.approx(variance**0.5, rel=1e-6)


def test_the_profile_is_the_one_of_the_sum_of_squares():
    """Against the sum of squares in closed form, minimised by itself at every value of k."""
    fit = estimate(Equations("dx = -k*x", parameters="k in [0, 3]"), Measured(T, {"x": DECAY}))
    p = fit.profile("k", 0.9)

    def squares(k):
        decay = torch.exp(-k * T)
        a = float((DECAY * decay).sum() / decay.square().sum())
        return float((DECAY - a * decay).square().sum())

    best = squares(fit["k"].value)
    limit = best * (1 + stats.t.ppf(0.95, 19) ** 2 / 19)
    low = optimize.brentq(lambda k: squares(k) - limit, 0.3, fit["k"].value)
    high = optimize.brentq(lambda k: squares(k) - limit, fit["k"].value, 1.2)
    assert (p.low, p.high) == pytest.approx((low, high), rel=1e-4)
    for k, loss in zip(p.values, p.losses, strict=True):
        assert loss == pytest.approx(21 * math.log(squares(k) / best), abs=1e-5)


def test_the_noise_of_each_column_is_estimated_and_weighs_it():
    x, z = 0.5 * T + noise(21, 0.02, 1), T + noise(21, 0.5, 2)
    fit = estimate(Equations("dx = a; x(0) = 0; z = 2*x"), Measured(T, {"x": x, "z": z}))

    def loss(a):
        return 21 * math.log(float((x - a * T).square().sum())) + 21 * math.log(float((z - 2 * a * T).square().sum()))

    assert fit["a"].value == pytest.approx(optimize.minimize_scalar(loss, (0.4, 0.6), tol=1e-10).x, rel=1e-6)
    assert fit.noise["x"] == pytest.approx(float((x - fit["a"].value * T).square().sum() / 20.5) ** 0.5, rel=1e-4)
    assert 10 < fit.noise["z"] / fit.noise["x"] < 60
    weight = T.square().sum() * (1 / fit.noise["x"] ** 2 + 4 / fit.noise["z"] ** 2)
    assert fit["a"].error == pytest.approx(float(weight) ** -0.5, rel=1e-4)


def test_relative_noise_is_regression_of_logarithms():
    y = 2 * torch.exp(-0.6 * T + noise(21, 0.1))
    fit = estimate(Equations("dx = -k*x; x(0) = exp(c)"), Measured(T, {"x": y}), noise="log")
    want = stats.linregress(T, y.log())
    assert (fit["k"].value, fit["c"].value) == pytest.approx((-want.slope, want.intercept), rel=1e-6)
    assert fit["k"].error == pytest.approx(want.stderr, rel=1e-6)
    assert fit.aic == pytest.approx(
        2 * 3 + 21 * (1 + math.log(2 * math.pi * fit.best.variances.item())) + 2 * float(y.log().sum()), rel=1e-9
    )


# ---- data -------------------------------------------------------------------------------------------------------------
def test_gaps_replicates_and_series_of_their_own_lengths():
    nan = math.nan
    first = Measured([0.0, 0.0, 1.0, 2.0, 2.0], {"x": [1.9, 2.1, nan, 0.55, 0.6]}, id="a")
    second = Measured([0.0, 1.5], {"x": [4.0, 1.6]}, id="b")
    fit = estimate(Equations("dx = -k*x"), [first, second])
    assert fit.count == 6 and list(fit.entries) == ["k", "x(0) [a]", "x(0) [b]"]

    def squares(p):
        k, a, b = p
        r = [
            1.9 - a,
            2.1 - a,
            0.55 - a * math.exp(-2 * k),
            0.6 - a * math.exp(-2 * k),
            4 - b,
            1.6 - b * math.exp(-1.5 * k),
        ]
        return np.array(r)

    want = optimize.least_squares(squares, (0.5, 2, 4), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert list(fit.values.values()) == pytest.approx(want.x, rel=1e-6)
    covariance = 2 * want.cost / 3 * np.linalg.inv(want.jac.T @ want.jac)
    assert [e.error for e in fit.entries.values()] == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-4)


def test_inputs_and_doses_drive_the_equations():
    """dx/dt = u − kx with u = 1 up to t = 2 and 0 from there, and a dose of 3 at t = 3."""

    def exact(t, k):
        rise = (1 - math.exp(-k * min(t, 2.0))) / k * math.exp(-k * max(t - 2.0, 0.0))
        return rise + (3 * math.exp(-k * (t - 3)) if t > 3 else 0.0)

    u = isocline.ZeroOrderHold([0.0, 2.0], torch.tensor([1.0, 0.0], dtype=F64))
    y = torch.tensor([exact(float(t), 0.8) for t in T], dtype=F64) + noise(21, 1e-4)
    data = Measured(T, {"x": y}, inputs={"u": u}, doses={"x": ([3.0], [3.0])})
    fit = estimate(Equations("dx = u - k*x; x(0) = 0", inputs=["u"]), data)
    assert fit["k"].value == pytest.approx(0.8, abs=4 * fit["k"].error)
    assert 0 < fit["k"].error < 1e-4
    assert fit.noise["x"] < 3e-4


def test_covariates_scale_series():
    series = [Measured(T, {"x": w * 2 * torch.exp(-0.6 * T)}, covariates={"w": w}, id=str(w)) for w in (0.5, 2.0)]
    fit = estimate(Equations("dx = -k*x; x(0) = a*w", covariates=["w"]), series)
    assert (fit["k"].value, fit["a"].value) == pytest.approx((0.6, 2.0), rel=1e-7)


def test_a_first_observation_may_be_taken_for_true():
    fit = estimate(Equations("dx = -k*x"), Measured(T, {"x": DECAY}), initial="first")
    assert list(fit.entries) == ["k"] and fit.freedom == 20


def test_fixed_parameters_stay_and_are_shown():
    fit = estimate(Equations("dx = -k*x + g; x(0) = a", parameters="g = 0.1 fixed unit m"), Measured(T, {"x": DECAY}))
    assert fit["g"].value == 0.1 and fit["g"].fixed
    assert "fixed  m" in str(fit)
    with pytest.raises(KeyError, match="g is fixed"):
        fit.profile("g")


def test_several_starts_find_what_one_misses():
    y = torch.sin(3 * T) + noise(21, 0.05)
    text, parameters = "dx = v; dv = -w^2*x; x(0) = 0; v(0) = w", "w = 1 in [0, 6]"
    alone = estimate(Equations(text, parameters=parameters), Measured(T, {"x": y}))
    field = Equations(text, parameters=parameters)
    several = estimate(field, Measured(T, {"x": y}), starts=8)
    assert several.best.loss < alone.best.loss - 10
    assert several["w"].value == pytest.approx(3, abs=0.1) and field.values["w"] == several["w"].value


def test_a_profile_that_comes_upon_a_better_fit_takes_it_and_leaves_no_interval_behind():
    """The search is stopped at a poor place on purpose, where the profile of k finds what is better."""
    field = Equations("dx = -k*x; x(0) = a", parameters=["a = 2", "k = 0.2"])
    fit = estimate(field, Measured(T, {"x": DECAY}), max_evaluations=1)
    poor = fit.best.loss
    assert not fit.converged and any("did not end" in m for m in fit.messages)
    fit.search.max_evaluations = 100
    assert len(fit.profiles()) == 2
    assert fit.best.loss < poor - 1 and fit.converged
    for name, value in (("k", 0.6), ("a", 2.0)):
        p = fit[name].interval
        assert p.low < fit[name].value < p.high and fit[name].value == pytest.approx(value, abs=0.05)
        assert min(p.losses) == 0
    assert any("came upon a better fit" in m for m in fit.messages)
    assert field.values["k"] == fit["k"].value


# ---- what cannot be known ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "parameters", "says", "undetermined"),
    [
        (
            "dx = -a*b*x; x(0) = 2",
            ["a > 0", "b > 0"],
            r"not determined separately.*up by 10 % with . down by 10 %",
            "ab",
        ),
        ("dx = -(a + b)*x; x(0) = 2", ["a = 0.1", "b = 0.2"], "a and b are not determined|b and a are not", "ab"),
        ("dx = -a*x + 0*c; x(0) = 2", ["a > 0", "c"], "c has no effect on anything that was measured", "c"),
    ],
)
def test_what_the_data_do_not_determine_is_said_in_words(text, parameters, says, undetermined):
    fit = estimate(Equations(text, parameters=parameters), Measured(T, {"x": DECAY}))
    assert len(fit.messages) == 1
    assert isinstance(fit.messages[0], str)
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(fit.messages[0])
    assert {name for name, e in fit.entries.items() if math.isinf(e.error)} == set(undetermined)


def test_an_interval_that_the_data_leave_open_says_so():
    """At concentrations far below K only V/K shows, so both have a lower limit and no upper one."""
    y = 0.2 * torch.exp(-0.6 * T) + noise(21, 0.02)
    fit = estimate(Equations("dx = -V*x/(K + x); x(0) = 0.2", parameters=["V > 0", "K > 0"]), Measured(T, {"x": y}))
    p = fit.profile("V")
    assert p.high == math.inf and "stays as good however far it goes" in p.open_high
    assert 0 < p.low < fit["V"].value and p.open_low == ""
    assert "to open" in str(fit)


def test_a_parameter_at_its_bound_has_no_error_and_an_interval_from_the_bound():
    y = 2 * torch.exp(-0.6 * T) - 0.03 * T + noise(21, 0.01)
    fit = estimate(Equations("dx = -a*x + c; x(0) = 2", parameters=["a > 0", "c in [0, 1]"]), Measured(T, {"x": y}))
    assert math.isnan(fit["c"].error) and fit["c"].bound == 0
    assert any("c lies at its bound 0" in m for m in fit.messages)
    p = fit.profile("c")
    assert p.low == 0 and "its bound 0" in p.open_low and 0 < p.high < 0.1
    alone = estimate(Equations("dx = -a*x; x(0) = 2", parameters=["a > 0"]), Measured(T, {"x": y}))
    assert fit["a"].error == pytest.approx(alone["a"].error, rel=1e-2)


def test_as_many_numbers_as_observations_leave_no_errors():
    fit = estimate(Equations("dx = -k*x"), Measured([0.0, 1.0], {"x": [2.0, 1.0]}))
    assert fit["k"].value == pytest.approx(math.log(2), rel=1e-6)
    assert math.isnan(fit["k"].error) and "as many numbers were fitted" in fit.messages[0]
    with pytest.raises(ValueError, match="nothing is left to tell the noise from"):
        fit.profile("k")


def test_numbers_that_go_into_a_report_are_plain():
    fit = estimate(
        Equations("dx = -a*b*x; x(0) = 2", parameters=["a > 0", "b > 0 unit 1/h"]), Measured(T, {"x": DECAY})
    )
    fit.profile("a")
    rows = json.loads(json.dumps(fit.rows(), allow_nan=False))
    assert rows[0]["error"] is None and rows[0]["high"] is None and rows[1]["unit"] == "1/h"


# ---- networks ---------------------------------------------------------------------------------------------------------
def test_a_network_beside_a_parameter_widens_its_error():
    alone = estimate(Equations("dx = -a*x", parameters="a > 0"), Measured(T, {"x": DECAY}))
    with_net = estimate(Equations("dx = -a*x + net(x, width=4)", parameters="a > 0"), Measured(T, {"x": DECAY}))
    assert with_net["a"].error > 1.5 * alone["a"].error
    assert with_net["a"].value == pytest.approx(0.6, abs=3 * with_net["a"].error)
    assert 0 < with_net.freedom < 19


def test_a_network_learns_what_the_equations_leave_out():
    t = torch.linspace(0, 8, 33, dtype=F64)
    y = isocline.solve(lambda t, x: 1.2 * x * (1 - x / 3), torch.tensor([0.2], dtype=F64), t).ys[:, 0] + noise(33, 0.02)
    field = Equations("dx = r*x - x*net(x, width=5)", parameters="r = 0.5 in [0, 5]")
    field.adapt(torch.tensor(0.0), y.unsqueeze(1))
    fit = estimate(field, Measured(t, {"x": y}))
    assert fit.noise["x"] < 0.03
    net = field.nets["net"](torch.tensor([[2.5]], dtype=F64)).item()
    assert field.values["r"] - net == pytest.approx(1.2 * (1 - 2.5 / 3), abs=0.05)


# ---- what cannot be ---------------------------------------------------------------------------------------------------
GOOD = {"x": [1.0, 0.5]}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Measured([1.0, 0.0], GOOD), "expected finite times in order"),
        (lambda: Measured([0.0], GOOD), "x: 2 values for 1 times"),
        (lambda: Measured([0.0, 1.0], {}), "columns: none"),
        (lambda: Measured([0.0, 1.0], {"x": [1.0, math.inf]}), "an infinite value"),
        (lambda: estimate(Equations("dx = -k*x"), []), "data: no series"),
        (
            lambda: estimate(Equations("dx = -k*x"), Measured([0.0, 1.0], {"xx": [1.0, 2.0]})),
            "xx: measured, but neither",
        ),
        (
            lambda: estimate(Equations("dx = -k*x"), Measured([0.0, 1.0], {"x": [math.nan] * 2})),
            "x: nothing measured in it, all is NaN",
        ),
        (
            lambda: estimate(Equations("dx = -k*z; dz = x"), Measured([0.0, 1.0], GOOD)),
            r"z: not measured in series 0.*z\(0\)",
        ),
        (lambda: estimate(Equations("dx = -k*x; x(0) = 1"), Measured([-1.0, 1.0], GOOD)), "starts at -1, before 0"),
        (lambda: estimate(Equations("dx = -k*x*w", covariates=["w"]), Measured([0.0, 1.0], GOOD)), "covariates: no w"),
        (lambda: estimate(Equations("dx = -k*x*w", inputs=["w"]), Measured([0.0, 1.0], GOOD)), "inputs: no w"),
        (lambda: estimate(Equations("dx = -k*x"), Measured([0.0, 1.0], GOOD), noise="big"), "noise: 'big' for x"),
        (
            lambda: estimate(Equations("dx = -k*x"), Measured([0.0, 1.0], GOOD), noise={"y": "log"}),
            "y is no measured column",
        ),
        (
            lambda: estimate(Equations("dx = -k*x"), Measured([0.0, 1.0], {"x": [1.0, 0.0]}), noise="log"),
            "x: 0 in series 0",
        ),
        (lambda: estimate(Equations("dx = -k*x"), Measured([0.0, 1.0], GOOD), initial="last"), "initial='last'"),
        (lambda: estimate(Equations("dx = -k*x"), Measured([0.0, 1.0], GOOD), prior=0.0), "prior=0.0"),
        (lambda: estimate(Equations("dx = -2*x; x(0) = 1"), Measured([0.0, 1.0], GOOD)), "nothing to estimate"),
        (
            lambda: estimate(Equations("dx = sqrt(k - x)"), Measured([0.0, 1.0], {"x": [5.0, 6.0]})),
            r"cannot be solved.*k = 1",
        ),
        (lambda: estimate(Equations("dx = net(x, width=900)"), Measured([0.0, 1.0], GOOD)), "2,701 weights"),
    ],
)
def test_what_cannot_be_estimated_is_said(call, says):
    with pytest.raises(ValueError, match=says):
        call()
