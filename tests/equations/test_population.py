"""Population fits: against closed forms where the likelihood has one, and against what others have published."""

import math

import pytest
import torch

from isocline import Equations, Parameter
from isocline.equations import Measured, estimate, population

F64 = torch.float64
T = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=F64)

THEOPHYLLINE = """
dgut = -ka*gut
dcentral = ka*gut - cl/v*central
gut(0) = 0; central(0) = 0
conc = central/v
"""


def lines(count=10, seed=0):
    """x = a_i + b t with noise: a random intercept."""
    draw = torch.Generator().manual_seed(seed)
    starts = 5.0 + torch.randn(count, 1, generator=draw, dtype=F64)
    return starts + 0.8 * T + 0.4 * torch.randn(count, len(T), generator=draw, dtype=F64)


def test_a_random_intercept_has_the_likelihood_of_the_linear_mixed_model():
    """y_i ~ N(X β, ω² 11ᵀ + σ² I) exactly; balanced, so that the maximum is known in closed form."""
    y = lines()
    count, times = y.shape
    data = [Measured(T, {"x": row}, id=str(i)) for i, row in enumerate(y)]
    fit = population(Equations("dx = b; x(0) = a", parameters="a = 4 per series"), data)
    x = torch.stack([torch.ones(times, dtype=F64), T], 1)
    beta = torch.linalg.lstsq(x, y.mean(0)).solution
    within = (y - y.mean(1, keepdim=True) - beta[1] * (T - T.mean())).square().sum() / (count * (times - 1))
    between = (y.mean(1) - y.mean()).square().mean() - within / times
    assert fit["a"].value == pytest.approx(float(beta[0]), rel=1e-5)
    assert fit["b"].value == pytest.approx(float(beta[1]), rel=1e-5)
    assert fit["a"].sd == pytest.approx(float(between.sqrt()), rel=1e-4)
    assert fit.noise["x"]["additive"] == pytest.approx(float(within.sqrt()), rel=1e-4)
    covariance = between * torch.ones(times, times, dtype=F64) + within * torch.eye(times, dtype=F64)
    normal = torch.distributions.MultivariateNormal(x @ beta, covariance)
    assert fit.log_likelihood == pytest.approx(float(normal.log_prob(y).sum()), abs=1e-5)
    errors = torch.linalg.inv(count * x.T @ torch.linalg.solve(covariance, x)).diagonal().sqrt()
    assert fit["a"].error == pytest.approx(float(errors[0]), rel=2e-3)
    assert fit["b"].error == pytest.approx(float(errors[1]), rel=2e-3)
    # Each series' own intercept is shrunk towards the population's by the share of its mean's variance that is noise.
    share = float(between / (between + within / times))
    want = float(beta[0]) + share * (y.mean(1) - y.mean())
    assert [own["a"] for own in fit.individuals.values()] == pytest.approx(want.tolist(), rel=1e-4)
    assert fit.converged and not fit.messages and fit["a"].distribution == "normal"
    one = fit.individual(data[3])
    assert one["a"] == pytest.approx(fit.individuals["3"]["a"], rel=1e-5)
    assert float(fit.predict(data[3], [10.0], one)["x"]) == pytest.approx(one["a"] + 10 * one["b"], rel=1e-6)


def test_the_approximation_is_near_the_integral_where_the_model_is_not_linear_and_its_gradient_is_its_own():
    """One random rate: the integral over it by a fine sum."""
    draw = torch.Generator().manual_seed(1)
    k = 0.5 * torch.exp(0.4 * torch.randn(6, 1, generator=draw, dtype=F64))
    y = 3.0 * torch.exp(-k * T) * (1 + 0.1 * torch.randn(6, len(T), generator=draw, dtype=F64))
    data = [Measured(T, {"x": row}, id=str(i)) for i, row in enumerate(y)]
    field = Equations("dx = -k*x; x(0) = a", parameters=["k > 0 per series", "a = 3 > 0"])
    fit = population(field, data, noise="combined", rtol=1e-9)

    def minus_twice(psi):
        """At (log k, log a, log ω, log a, log b) by quadrature."""
        eta = torch.linspace(-4, 4, 2001, dtype=F64) * psi[2].exp()
        f = psi[1].exp() * torch.exp(-(psi[0] + eta).exp()[:, None] * T)
        v = psi[3].exp() ** 2 + (psi[4].exp() * f) ** 2
        inner = torch.distributions.Normal(f, v.sqrt()).log_prob(y[:, None]).sum(-1)
        prior = torch.distributions.Normal(0.0, psi[2].exp()).log_prob(eta)
        return -2.0 * (torch.logsumexp(inner + prior, 1) + (eta[1] - eta[0]).log()).sum()

    order = [field.names.index("k"), field.names.index("a"), 2, 3, 4]
    assert -2 * fit.log_likelihood == pytest.approx(float(minus_twice(fit.psi[order])), abs=0.3)
    psi = fit.psi + torch.tensor([0.1, -0.05, 0.2, 0.1, -0.1], dtype=F64)[order]
    eta = torch.zeros(6, 1, dtype=F64)
    gradient = fit.laplace(psi, eta).gradient

    def at(i, h):
        return fit.laplace(psi + h * torch.eye(5, dtype=F64)[i], eta).loss

    difference = torch.tensor([(at(i, 1e-3) - at(i, -1e-3)) / 2e-3 for i in range(5)], dtype=F64)
    torch.testing.assert_close(gradient, difference, rtol=2e-4, atol=2e-3)


def test_correlated_effects_have_the_likelihood_of_the_linear_mixed_model():
    """y_i ~ N(X β, X Ω Xᵀ + σ² I), with intercepts and slopes that go together."""
    draw = torch.Generator().manual_seed(5)
    x = torch.stack([torch.ones(4, dtype=F64), T], 1)
    mixing = torch.tensor([[1.0, 0.0], [0.3, 0.2]], dtype=F64)
    effects = torch.randn(12, 2, generator=draw, dtype=F64) @ mixing.T
    y = (torch.tensor([5.0, 0.8], dtype=F64) + effects) @ x.T + 0.2 * torch.randn(12, 4, generator=draw, dtype=F64)
    data = [Measured(T, {"x": row}) for row in y]
    field = Equations("dx = b; x(0) = a", parameters=["a = 4 per series", "b = 1 per series"])
    fit = population(field, data, correlated=True)
    sd = torch.tensor([fit["a"].sd, fit["b"].sd], dtype=F64)
    covariance = x @ (fit.correlation * sd * sd.unsqueeze(1)) @ x.T
    covariance = covariance + fit.noise["x"]["additive"] ** 2 * torch.eye(4, dtype=F64)
    normal = torch.distributions.MultivariateNormal(x @ torch.tensor(list(fit.values.values()), dtype=F64), covariance)
    assert fit.log_likelihood == pytest.approx(float(normal.log_prob(y).sum()), abs=1e-5)
    # Balanced: the mean is the regression's, and as X is square to what varies, the within-series noise is in closed form.
    beta = torch.linalg.lstsq(x, y.mean(0)).solution
    assert list(fit.values.values()) == pytest.approx(beta.tolist(), rel=1e-4)
    own = torch.linalg.lstsq(x, y.T).solution
    noise = (y.T - x @ own).square().sum() / (12 * 2)
    assert fit.noise["x"]["additive"] == pytest.approx(float(noise.sqrt()), rel=2e-3)
    omega = torch.cov(own, correction=0) - noise * torch.linalg.inv(x.T @ x)
    assert float(fit.correlation[0, 1]) == pytest.approx(float(omega[0, 1] / omega.diagonal().prod().sqrt()), abs=0.01)


def test_a_spread_that_is_none_is_told_and_has_no_error():
    y = 5.0 + 0.8 * T + 0.4 * torch.randn(10, len(T), generator=torch.Generator().manual_seed(3), dtype=F64)
    y = y - y.mean(1, keepdim=True) + y.mean()  # less alike than chance would have them
    data = [Measured(T, {"x": row}) for row in y]
    fit = population(Equations("dx = b; x(0) = a", parameters="a = 4 per series"), data)
    assert "a: no difference between series can be told from the noise" in fit.messages[0]
    assert math.isnan(fit["a"].sd_error) and math.isfinite(fit["a"].error) and fit["a"].sd < 0.1
    assert "note: a: no difference" in str(fit)


def theophylline(rows):
    by = {}
    for row in rows("pk_theophylline", "theophylline.csv"):
        by.setdefault(row["subject"], []).append(row)
    return [
        Measured(
            [float(r["time"]) for r in group],
            {"conc": [float(r["conc"]) for r in group]},
            doses={"gut": ([0.0], [float(group[0]["dose"]) * float(group[0]["weight"])])},
            id=name,
        )
        for name, group in by.items()
    ]


PARAMETERS = ["ka = 1 > 0 per series unit 1/h", "cl = 2 > 0 per series unit L/h", "v = 30 > 0 per series unit L"]


@pytest.mark.slow
def test_theophylline_is_what_focei_elsewhere_gives_and_a_subject_left_out_is_foretold(rows):
    """nlmixr2est, issue 318: FOCEI of these data by its print: log-likelihood -179.7043, log cl 1.01, log v 3.46, noise 0.695."""
    everyone = theophylline(rows)
    fit = population(Equations(THEOPHYLLINE, parameters=PARAMETERS), everyone, rtol=1e-6)
    assert fit.log_likelihood == pytest.approx(-179.7043, abs=0.005)
    published = {"ka": 0.464, "cl": 1.01, "v": 3.46}
    assert {k: math.log(v) for k, v in fit.values.items()} == pytest.approx(published, abs=0.005)
    assert fit.noise["conc"]["additive"] == pytest.approx(0.695, abs=0.002)
    spreads = {k: math.sqrt(math.expm1(e.sd**2)) for k, e in fit.entries.items()}  # coefficients of variation
    assert spreads["cl"] == pytest.approx(0.267, abs=0.003)
    out = everyone[-1]
    seen = out.columns["conc"]
    rest = population(Equations(THEOPHYLLINE, parameters=PARAMETERS), everyone[:-1], rtol=1e-6)
    first = Measured(out.ts[:5], {"conc": seen[:5]}, doses=out.doses)
    blind, informed = rest.predict(out)["conc"], rest.predict(out, parameters=rest.individual(first))["conc"]
    mean = torch.cat([s.columns["conc"] for s in everyone[:-1]]).mean()

    def rmse(path):
        return float((path - seen)[5:].square().mean().sqrt())

    assert rmse(informed) < rmse(blind) < rmse(mean)
    assert rest.individual(Measured([0.0], {"conc": [math.nan]}, doses=out.doses)) == rest.values


@pytest.mark.parametrize(
    ("equations", "parameters", "options", "message"),
    [
        ("dx = -k*x", "k > 0 per series", {}, r"x: no equation says where it starts; add one"),
        ("dx = -k*x + net(x); x(0) = 1", "k > 0 per series", {}, "takes no networks"),
        ("dx = -k*x; x(0) = 1", "k > 0 per series", {"noise": "log"}, "'log' for x, expected one of additive"),
        ("dx = -k*x; x(0) = 1", "k > 0 per series", {"noise": {"y": "additive"}}, "y is no measured column"),
        ("dx = -k*x; x(0) = 1", "k = 1 fixed", {}, "all parameters are fixed"),
        ("dx = -k*x^0.5; x(0) = -1", "k > 0 per series", {}, "the equations cannot be solved over the data"),
    ],
)
def test_what_is_no_population_is_refused_in_plain_words(equations, parameters, options, message):
    data = [Measured(T, {"x": row}) for row in lines(2)]
    with pytest.raises(ValueError, match=message):
        population(Equations(equations, parameters=parameters), data, **options)


def test_one_series_and_shared_parameters_have_their_own_function():
    data = [Measured(T, {"x": row}) for row in lines(1)]
    field = Equations("dx = -k*x; x(0) = 1", parameters="k > 0 per series")
    with pytest.raises(ValueError, match="1 series, expected at least two"):
        population(field, data)
    with pytest.raises(ValueError, match="k: declared per series"):
        estimate(field, data)


def test_a_declaration_says_that_a_parameter_differs_from_series_to_series():
    p = Parameter.read("cl = 2 in [0, inf] per series unit L/h")
    assert p.per_series and str(p) == "cl = 2 in [0, inf] per series unit L/h"
    assert Parameter.read("cl > 0 per subject").per_series
    with pytest.raises(ValueError, match="found 'day' behind per, expected series"):
        Parameter.read("cl per day")
    with pytest.raises(ValueError, match="fixed, and per series"):
        Parameter.read("cl = 1 fixed per series")


def test_few_rows_of_a_series_make_those_parameters_likely_that_a_search_of_the_posterior_finds():
    """Two rows of one who absorbs late: the mode, against steps of -2 log p(y, η) written out for this closed form."""
    from scipy.optimize import minimize

    draw = torch.Generator().manual_seed(3)
    ts = torch.tensor([0.25, 1.0, 3.0, 8.0], dtype=F64)

    def course(eta, t):
        ka, cl = 1.5 * torch.exp(eta[..., :1]), 0.2 * torch.exp(eta[..., 1:])
        return 10 * ka / (ka - cl) * (torch.exp(-cl * t) - torch.exp(-ka * t))

    eta = torch.randn(8, 2, generator=draw, dtype=F64) * torch.tensor([0.6, 0.2], dtype=F64)
    y = course(eta, ts) + 0.3 * torch.randn(8, 4, generator=draw, dtype=F64)
    text = "dgut = -ka*gut; dx = ka*gut - cl*x; gut(0) = 0; x(0) = 0"
    field = Equations(text, parameters="ka = 1 > 0 per series; cl = 0.3 > 0 per series")
    doses = {"gut": ([0.0], [10.0])}
    fit = population(field, [Measured(ts, {"x": row}, doses=doses, id=str(i)) for i, row in enumerate(y)])
    late = torch.tensor([0.3, 2.0], dtype=F64)
    own = fit.individual(Measured(ts[:2], {"x": late}, doses=doses))
    theta = torch.tensor([fit["ka"].value / 1.5, fit["cl"].value / 0.2], dtype=F64).log()
    sds = torch.tensor([fit["ka"].sd, fit["cl"].sd], dtype=F64)

    def joint(eta):
        eta = torch.as_tensor(eta, dtype=F64)
        left = (late - course(theta + eta, ts[:2])) / fit.noise["x"]["additive"]
        return float(left.square().sum() + (eta / sds).square().sum())

    mode = minimize(joint, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}).x
    assert math.log(own["ka"] / fit["ka"].value) == pytest.approx(mode[0], abs=2e-3)
    assert math.log(own["cl"] / fit["cl"].value) == pytest.approx(mode[1], abs=2e-3)
    assert own["ka"] < 0.7 * fit["ka"].value


def test_draws_of_a_series_have_the_spread_of_the_linear_mixed_model():
    """A random intercept: given n rows, and given none, the next number has a variance in closed form."""
    y = lines(200, seed=4)
    data = [Measured(T, {"x": row}, id=str(i)) for i, row in enumerate(y)]
    fit = population(Equations("dx = b; x(0) = a", parameters="a = 4 per series"), data)
    between, noise = fit["a"].sd ** 2, fit.noise["x"]["additive"] ** 2
    for given in (data[3], Measured(T[:1], {"x": y[3, :1]}), Measured(T, {"x": torch.full_like(T, math.nan)})):
        draws = fit.simulate(given, [5.0], count=4000)["x"]
        left = 1.0 / (1.0 / between + given.count / noise)
        at = fit.individual(given)["a"] + 5.0 * fit["b"].value
        sd = math.sqrt(left + noise + 25.0 * fit["b"].error ** 2)
        assert float(draws.mean()) == pytest.approx(at, abs=4 * sd / math.sqrt(4000))
        assert float(draws.std()) == pytest.approx(sd, rel=0.05)


def test_what_is_known_of_the_population_moves_a_series_as_far_as_its_rows_leave_it_to():
    """Few series: the standard errors of a and b count, and the closed form is that of the best linear predictor."""
    y = lines(6, seed=8)
    data = [Measured(T, {"x": row}, id=str(i)) for i, row in enumerate(y)]
    fit = population(Equations("dx = b; x(0) = a", parameters="a = 4 per series"), data)
    between, noise = fit["a"].sd ** 2, fit.noise["x"]["additive"] ** 2
    share = between / (between + noise / 4)
    covariance = fit.covariance[:2, :2]
    order = [fit.model.names.index(name) for name in ("a", "b")]
    slope = torch.tensor([1 - share, 5.0 - share * 1.5], dtype=F64)  # of the next number at 5 by a and b
    variance = float(slope @ covariance[order][:, order] @ slope) + between * (1 - share) + noise
    draws = fit.simulate(data[0], [5.0], count=8000)["x"]
    assert float(draws.std()) == pytest.approx(math.sqrt(variance), rel=0.04)


def test_only_effects_that_are_named_go_together():
    draw = torch.Generator().manual_seed(5)
    x = torch.stack([torch.ones(4, dtype=F64), T, T**2], 1)
    effects = torch.randn(30, 3, generator=draw, dtype=F64) * torch.tensor([1.0, 0.3, 0.1], dtype=F64)
    effects[:, 2] += 0.1 * effects[:, 0]
    y = (torch.tensor([5.0, 0.8, 0.2], dtype=F64) + effects) @ x.T
    y += 0.1 * torch.randn(30, 4, generator=draw, dtype=F64)
    field = Equations("dx = b + 2*c*t; x(0) = a", parameters="a = 4 per series; b = 1 per series; c = 1 per series")
    fit = population(field, [Measured(T, {"x": row}) for row in y], correlated=["a", "c"])
    a, b, c = (fit.varying.index(name) for name in "abc")
    assert float(fit.correlation[a, c]) > 0.4
    assert float(fit.correlation[a, b]) == float(fit.correlation[b, c]) == 0.0
    with pytest.raises(ValueError, match="correlated: d does not differ from series to series"):
        population(field, [Measured(T, {"x": row}) for row in y], correlated=["a", "d"])
    with pytest.raises(ValueError, match="correlated: a alone"):
        population(field, [Measured(T, {"x": row}) for row in y], correlated=["a"])
