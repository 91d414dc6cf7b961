"""The latent ODE: its bound against closed forms, what must not matter, and gradients."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from isocline.nn import MLP, LatentODE
from isocline.nn.latent_ode import gaussian_kl

F64 = torch.float64
NAN = float("nan")
FIXED = {"solver": "rk4", "step": 0.05}


class Rotation(nn.Module):
    """dz/dt = (-z2, z1): z(t) is z0 turned by t."""

    def forward(self, t, z):
        return torch.stack([-z[..., 1], z[..., 0]], -1)


class Known(nn.Module):
    """An encoder that always answers the same code."""

    def __init__(self, code):
        super().__init__()
        self.register_buffer("code", code)

    def encode(self, x, ts, mask, at):
        return self.code.expand(x.shape[1], -1)


def series(count=7, batch=4, observed=2):
    return torch.randn(count, batch, observed, dtype=F64), torch.linspace(0.1, 1.3, count, dtype=F64)


def known(std=1e-6, **options):
    """q(z0|x) = N((1, 0), std²) for every x, and z seen directly."""
    code = torch.tensor([1.0, 0.0, 2 * math.log(std), 2 * math.log(std)], dtype=F64)
    options = {"rtol": 1e-10, "atol": 1e-12, "noise": [0.5, 2.0], **options}
    model = LatentODE(
        2, 2, encoder=Known(code), posterior=nn.Identity(), field=Rotation(), decoder=nn.Identity(), **options
    )
    return model.double()


@pytest.mark.parametrize("encoder", ["rnn", "ode_rnn"])
def test_shapes(encoder):
    model = LatentODE(2, 3, encoder=encoder, **FIXED).double()
    x, ts = series()
    assert model.reconstruct(x, ts).shape == (7, 4, 2)
    assert model.reconstruct(x, ts, samples=5).shape == (5, 7, 4, 2)
    assert model.predict(x, ts, [0.0, 9.0]).shape == (2, 4, 2)
    assert model.predict(x, ts, torch.rand(4, 3)).shape == (3, 4, 2)
    assert model.predict(x, ts, torch.rand(4, 3), samples=5).shape == (5, 3, 4, 2)
    assert model.sample(6, ts).shape == (7, 6, 2)
    assert all(part.shape == (4,) for part in model.elbo(x, ts, samples=2))


def test_the_bound_in_closed_form():
    """With q as good as a point, log p(x | z) is that of the rotated point, and KL that of two Gaussians."""
    std = 1e-6
    model = known(std)
    x, ts = series()
    bound = model.elbo(x, ts, samples=2, kl_weight=0.5)
    truth = torch.stack([ts.cos(), ts.sin()], -1)[:, None]
    noise = torch.tensor([0.5, 2.0], dtype=F64)
    want = torch.distributions.Normal(truth, noise).log_prob(x).sum((0, 2))
    # The draw moves z by 1e-6, the log-likelihood by 1e-6 (x - m) / noise² a number.
    assert torch.allclose(bound.log_likelihood, want, atol=1e-6 * 14 * 20)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(
        normal(torch.tensor([1.0, 0.0], dtype=F64), torch.full((2,), std, dtype=F64)),
        normal(torch.zeros(2, dtype=F64), torch.ones(2, dtype=F64)),
    ).sum()
    assert torch.allclose(bound.kl, kl.expand(4))
    assert torch.equal(bound.value, bound.log_likelihood + bound.events - 0.5 * bound.kl)
    assert not bound.events.any() and not bound.labels.any()


def test_the_bound_is_below_the_evidence_and_touches_it_at_the_true_posterior():
    """One number x = z0 + noise: p(x) = N(0, 1 + s²), the posterior N(x / (1 + s²), s² / (1 + s²))."""
    s, x = 0.7, torch.tensor([[[0.9]]], dtype=F64)

    class Still(nn.Module):
        def forward(self, t, z):
            return 0 * z

    def bound(mean, variance):
        code = torch.tensor([mean, math.log(variance)], dtype=F64)
        model = LatentODE(
            1, 1, encoder=Known(code), posterior=nn.Identity(), field=Still(), decoder=nn.Identity(), noise=s
        )
        return model.double().elbo(x, [1.0], samples=20_000).value.item()

    evidence = torch.distributions.Normal(0.0, math.sqrt(1 + s * s)).log_prob(torch.tensor(0.9)).item()
    variance = s * s / (1 + s * s)
    # 20,000 draws of a quadratic in z: a standard error of sqrt(2) variance / (2 s²) / sqrt(20,000), and that of the
    # cross term; 0.02 is four of them.
    assert bound(0.9 / (1 + s * s), variance) == pytest.approx(evidence, abs=0.02)
    gap = gaussian_kl(torch.tensor([0.5]), torch.tensor([1.0])).item()  # a posterior half a standard deviation off
    off = bound(0.9 / (1 + s * s) + 0.5 * math.sqrt(variance), variance)
    assert off == pytest.approx(evidence - gap, abs=0.03)


@pytest.mark.parametrize("encoder", ["rnn", "ode_rnn"])
def test_masked_values_change_no_bit_of_the_bound(encoder):
    model = LatentODE(2, 3, encoder=encoder, rates=2, **FIXED).double()
    x, ts = series()
    mask = torch.rand(7, 4, 2) < 0.6
    bounds = []
    for other in (0.0, 1e30, NAN):
        torch.manual_seed(3)
        bounds.append(model.elbo(torch.where(mask, x, other), ts, mask, samples=2))
    torch.manual_seed(3)
    bounds.append(model.elbo(torch.where(mask, x, NAN), ts, samples=2))  # NaN is missing
    for bound in bounds[1:]:
        assert all(torch.equal(a, b) for a, b in zip(bound, bounds[0], strict=True))


@pytest.mark.parametrize("rates", [0, 1])
def test_each_samples_own_times_and_shared_ones_under_a_mask_give_one_bound(rates):
    model = LatentODE(2, 3, rates=rates, **FIXED).double()
    x, grid = series()
    mask, ts, own = torch.zeros(7, 4), torch.full((4, 5), NAN, dtype=F64), torch.zeros(5, 4, 2, dtype=F64)
    for b, rows in enumerate([[0, 3, 6], [1, 2, 4, 5, 6], [2], [0, 6]]):
        mask[rows, b] = 1
        ts[b, : len(rows)] = grid[rows]
        own[: len(rows), b] = x[rows, b]
    torch.manual_seed(3)
    shared = model.elbo(x, grid, mask, samples=2)
    torch.manual_seed(3)
    apart = model.elbo(own, ts, samples=2)
    for a, b in zip(shared, apart, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    found = model.predict(own, ts, ts)
    assert torch.equal(found.isnan()[..., 0].t(), ts.isnan())
    assert torch.allclose(found[1, 1], model.predict(x, grid, grid, mask)[2, 1], rtol=1e-12)


def test_times_before_and_after_t0_in_any_order():
    model = known(t0=0.4)
    x, ts = series()
    at = torch.tensor([2.0, -1.5, 0.4, 0.9], dtype=F64)
    want = torch.stack([(at - 0.4).cos(), (at - 0.4).sin()], -1)[:, None].expand(4, 4, 2)
    assert torch.allclose(model.predict(x, ts, at), want, atol=1e-8)
    assert torch.allclose(model.predict(x, ts, at.expand(4, 4)), want, atol=1e-8)
    assert torch.allclose(model.predict(x, ts, [-1.0]), model.predict(x, ts, torch.tensor([[-1.0]]).expand(4, 1)))


@pytest.mark.parametrize("window", [(0.0, 1.3), (-0.7, 0.9), (0.2, 2.0)])
def test_the_integral_of_the_rate_is_that_of_a_quadrature(window):
    model = LatentODE(2, 3, rates=2, t0=0.3, rtol=1e-10, atol=1e-12).double()
    z0 = torch.randn(2, 4, 3, dtype=F64)
    z, total = model.path(z0, torch.rand(4, 5), window)
    assert z.shape == (5, 2, 4, 3) and total.shape == (2, 4, 2)
    a, b = window
    nodes = torch.linspace(a, b, 2001, dtype=F64)
    rate = model.intensity(None, model.path(z0, nodes)[0])
    simpson = (rate[0] + rate[-1] + 4 * rate[1:-1:2].sum(0) + 2 * rate[2:-1:2].sum(0)) * (b - a) / 6000
    assert torch.allclose(total, simpson, rtol=1e-8)


def test_events_of_a_constant_rate_are_poissons():
    """λ = softplus(c): log p = N log λ - λ (b - a)."""
    constant = nn.Linear(2, 1)
    nn.init.zeros_(constant.weight)
    nn.init.constant_(constant.bias, 1.5)
    model = known(rates=1, intensity=constant)
    x, ts = series()
    mask = torch.ones(7, 4, dtype=F64)
    mask[:3, 1] = 0
    rate = math.log1p(math.exp(1.5))
    want = mask.sum(0) * math.log(rate) - rate * 2.5
    assert torch.allclose(model.elbo(x, ts, mask, window=(-0.5, 2.0)).events, want, rtol=1e-8)
    assert torch.allclose(model.elbo(x, ts, mask).events, mask.sum(0) * math.log(rate) - rate * 1.3, rtol=1e-8)


def test_a_tiny_rate_has_a_finite_logarithm_and_gradient():
    model = LatentODE(2, 2, rates=1)
    z = torch.full((3, 2), 1e4, requires_grad=True)
    u = model.intensity.net(z)
    log = model.intensity.log(z)
    log.sum().backward()
    assert log.isfinite().all() and z.grad.isfinite().all()
    small = torch.linspace(-20, -10, 101, dtype=F64)[:, None]
    near = LatentODE(2, 2, rates=1).intensity
    near.net = nn.Identity()
    assert torch.allclose(near.log(small), torch.log1p(small.exp()).log(), atol=2e-7)
    assert u.shape == log.shape


@pytest.mark.parametrize("encoder", ["rnn", "ode_rnn"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "backsolve", "gauss_adjoint"])
def test_gradients_reach_every_parameter_and_agree(encoder, gradient):
    torch.manual_seed(1)
    options = {"rtol": 1e-8, "atol": 1e-10, "noise": 0.5}
    model = LatentODE(2, 3, encoder=encoder, rates=1, classes=3, learn_noise=True, **options).double()
    x, ts = series()
    labels = torch.tensor([0, 2, -1, 1])

    def gradients(kind):
        model.options["gradient"] = kind
        torch.manual_seed(5)
        bound = model.elbo(x, ts, labels=labels, samples=2)
        return torch.autograd.grad((bound.value + bound.labels).sum(), list(model.parameters()))

    for name, a, b in zip(dict(model.named_parameters()), gradients(gradient), gradients("backprop"), strict=True):
        assert b.abs().max() > 0, name
        # The continuous adjoints differ from the exact gradient by the error of the solve and of the values between its
        # steps, 1e-8 a unit of time, which dL/dz, a sum of 14 residuals over noise² = 0.25 and as many rates, amplifies.
        assert torch.allclose(a, b, rtol=0, atol=1e-4 * float(b.abs().max())), name


def test_labels_are_scored_by_the_classifier_where_known():
    model = known(classes=3)
    x, ts = series()
    labels = torch.tensor([0, 2, -1, 1])
    logits = model.classify(x, ts)
    assert logits.shape == (4, 3)
    want = torch.log_softmax(logits, -1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    want[2] = 0
    assert torch.allclose(model.elbo(x, ts, labels=labels).labels, want, atol=1e-4)


def test_one_part_can_be_read_and_another_explained():
    model = known()
    x, ts = series()
    first, later = model.elbo(x[:3], ts[:3]), model.elbo(x[3:], ts[3:])
    both = model.elbo(x, ts)
    there = model.elbo(x[:3], ts[:3], target=x[3:], target_ts=ts[3:])
    assert torch.allclose(there.log_likelihood, later.log_likelihood, atol=1e-3)
    assert torch.allclose(first.log_likelihood + later.log_likelihood, both.log_likelihood, atol=1e-3)


def test_it_learns_a_rotation_and_its_noise():
    """Turning points seen with noise 0.1: after a short training the noise found is near the noise there is."""
    torch.manual_seed(0)
    ts = torch.linspace(0, 2, 8)
    angle = torch.rand(200) * 2 * math.pi + ts[:, None]
    x = torch.stack([angle.cos(), angle.sin()], -1) + 0.1 * torch.randn(8, 200, 2)
    model = LatentODE(2, 2, encoder="rnn", noise=1.0, learn_noise=True, solver="rk4", step=1.0, gradient="backprop")
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss = -model.elbo(x, ts).value.mean()
        loss.backward()
        optimizer.step()
    assert 0.09 < model.log_noise.exp().item() < 0.2
    assert (model.reconstruct(x, ts) - torch.stack([angle.cos(), angle.sin()], -1)).square().mean() < 0.1**2


def test_copies_pickles_and_state_dicts():
    model = LatentODE(2, 3, rates=1, classes=2, **FIXED)
    x, ts = torch.randn(7, 4, 2), torch.linspace(0, 1, 7)
    want = model.reconstruct(x, ts)
    torch.manual_seed(9)
    fresh = LatentODE(2, 3, rates=1, classes=2, **FIXED)
    assert not torch.equal(fresh.reconstruct(x, ts), want)
    fresh.load_state_dict(model.state_dict())
    for other in (fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.reconstruct(x, ts), want)
    assert "log_noise" in model.state_dict() and "log_noise" not in dict(model.named_parameters())
    assert "log_noise" in dict(LatentODE(2, 3, learn_noise=True).named_parameters())


def test_equal_seeds_give_equal_models():
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(LatentODE(2, 3))
    a, b, c = (m.field.layers[0].weight for m in models)
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"encoder": "lstm"}, "encoder='lstm'"),
        ({"rates": 3}, "rates=3, expected 0, 1 or observed=2"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"noise": [1.0, 1.0, 1.0]}, "or 2 of them"),
        ({"classes": 1}, "classes=1"),
        ({"batching": "per_sample"}, "batching"),
    ],
)
def test_refused_settings(options, says):
    with pytest.raises(ValueError, match=says):
        LatentODE(2, 3, **options)


def test_what_the_model_lacks_is_named():
    model = LatentODE(2, 3)
    x, ts = torch.randn(7, 4, 2), torch.linspace(0, 1, 7)
    with pytest.raises(ValueError, match="classes=2"):
        model.classify(x, ts)
    with pytest.raises(ValueError, match="classes=2"):
        model.elbo(x, ts, labels=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="no rate"):
        model.path(torch.zeros(4, 3), ts, window=(0.0, 1.0))
    with pytest.raises(ValueError, match="a <= b"):
        LatentODE(2, 3, rates=1).path(torch.zeros(4, 3), ts, window=(1.0, 0.0))
    with pytest.raises(ValueError, match="with B the batch"):
        model.path(torch.zeros(4, 3), torch.zeros(5, 7))


def test_a_field_that_depends_on_time():
    model = LatentODE(2, 3, field=MLP((3, 8, 3), time=True), **FIXED)
    x, ts = torch.randn(7, 4, 2), torch.linspace(0, 1, 7)
    assert model.elbo(x, ts, samples=2).value.isfinite().all()
