"""Densities carried by a flow."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from isocline.nn import CNF, MLP, PlanarField, TimeMLP
from isocline.nn.cnf import Carried

D = torch.float64
FINE = {"rtol": 1e-8, "atol": 1e-10}


class Linear(nn.Module):
    """dz/dt = A z, without help for its derivatives."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t, z):
        return z @ self.matrix.T


class Plain(nn.Module):
    """Hides the methods of a field."""

    def __init__(self, field):
        super().__init__()
        self.inner = field

    def forward(self, t, z):
        return self.inner(t, z)


def field(dim=2, dtype=D, gain=1.0):
    made = TimeMLP((dim, 8, 8, dim), dtype=dtype, seed=2)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(gain)
    return made


@pytest.mark.parametrize("derivatives", ["forward", "reverse"])
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
@pytest.mark.parametrize("ts", [(0.0, 1.0), (2.0, 0.5)])
def test_a_linear_flow_is_the_gaussian_it_ought_to_be(derivatives, batching, ts):
    a = torch.tensor([[0.3, -0.8], [0.5, -0.2]], dtype=D)
    flow = CNF(Linear(a), 2, ts=ts, derivatives=derivatives, batching=batching, **FINE).double()
    carry = torch.linalg.matrix_exp(a * (ts[1] - ts[0]))
    exact = MultivariateNormal(torch.zeros(2, dtype=D), carry @ carry.T)
    x = torch.randn(6, 2, dtype=D)
    torch.testing.assert_close(flow.log_prob(x), exact.log_prob(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(flow.to_data(x), x @ carry.T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("made", [field(), PlanarField(2, 8, hyper=4, dtype=D), Plain(field())])
def test_the_density_integrates_to_one(made):
    """By the trapezoidal rule, which for a smooth density that vanishes at the border converges faster than any power."""
    flow = CNF(made, 2, rtol=1e-6, atol=1e-8).double()
    x = torch.linspace(-9, 9, 91, dtype=D)
    plane = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)
    with torch.no_grad():
        mass = flow.log_prob(plane).exp().sum() * (x[1] - x[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=2e-4)


def test_samples_and_their_densities_belong_together():
    flow = CNF(field(), 2, **FINE).double()
    x, log_q = flow.rsample_and_log_prob((4, 3))
    assert x.shape == (4, 3, 2) and log_q.shape == (4, 3)
    torch.testing.assert_close(flow.log_prob(x), log_q, rtol=0, atol=1e-6)
    torch.testing.assert_close(flow.to_data(flow.to_base(x)), x, rtol=0, atol=1e-6)


def test_samples_have_the_moments_of_the_density():
    a = torch.tensor([[0.5, -0.4], [0.0, -0.6]], dtype=D)
    carry = torch.linalg.matrix_exp(a)
    x = CNF(Linear(a), 2, rtol=1e-5).double().sample((20_000,))
    assert not x.requires_grad
    # The covariance of n samples has a standard error of at most √(2/n) times the largest variance.
    error = (2 / 20_000) ** 0.5 * torch.linalg.eigvalsh(carry @ carry.T).max().item()
    torch.testing.assert_close(torch.cov(x.T), carry @ carry.T, rtol=0, atol=5 * error)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
@pytest.mark.parametrize("derivatives", ["own", "forward", "reverse"])
def test_the_estimated_trace_is_right_on_average(noise, derivatives):
    made = field(3)
    carried = Carried(made if derivatives == "own" else Plain(made), 3, True, derivatives.replace("own", "forward"))
    t, n = torch.tensor(0.4, dtype=D), 20_000
    z = torch.randn(3, dtype=D)
    state = torch.cat([z, torch.zeros(3, dtype=D)]).repeat(n, 1)
    drawn = torch.randn(n, 3, dtype=D)
    eps = drawn.sign() if noise == "rademacher" else drawn
    exact = carried(t, state[:1])[0]
    estimates = carried(t, state, eps)
    torch.testing.assert_close(estimates[0, :3], exact[:3])
    for column in (3, 5):  # trace, Frobenius norm
        error = estimates[:, column].std() / n**0.5
        assert (estimates[:, column].mean() - exact[column]).abs() < 5 * error


def test_rademacher_noise_is_exact_for_a_diagonal_jacobian():
    flow = CNF(lambda t, z: torch.sin(z), 3, **FINE).double()
    x = torch.randn(5, 3, dtype=D)
    estimated = flow.log_prob(x, trace="hutchinson")
    torch.testing.assert_close(estimated, flow.log_prob(x), rtol=0, atol=1e-6)


def test_one_noise_serves_a_whole_solve():
    """With a fresh one at every evaluation the solver would see noise and take thousands of steps."""
    flow = CNF(field(gain=2.0), 2, trace="hutchinson", noise="gaussian", **FINE).double()
    flow.log_prob(torch.randn(5, 2, dtype=D))
    estimated = flow.stats.accepted
    flow.log_prob(torch.randn(5, 2, dtype=D), trace="exact")
    assert estimated < 3 * flow.stats.accepted


@pytest.mark.parametrize("made", [field(), Plain(field()), PlanarField(2, 4, gate=True, dtype=D)])
@pytest.mark.parametrize("gradient", ["backprop", "checkpointed", "gauss_adjoint", "backsolve"])
def test_gradients_are_the_finite_differences(made, gradient):
    flow = CNF(copy.deepcopy(made), 2, gradient=gradient, rtol=1e-9, atol=1e-11).double()
    x = torch.randn(3, 2, dtype=D, requires_grad=True)
    flow.log_prob(x).sum().backward()
    h = 1e-5
    weights = next(p for p in flow.parameters() if p.dim() == 2)
    for tensor in (weights, x):
        expected = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.view(-1)[1] += sign * h
                expected.append(flow.log_prob(x).sum().item())
                tensor.view(-1)[1] -= sign * h
        slope = (expected[0] - expected[1]) / (2 * h)
        # Differences of solves at 1e-9 over 2e-5.
        assert tensor.grad.view(-1)[1].item() == pytest.approx(slope, rel=1e-3, abs=5e-4)


def test_forward_and_reverse_derivatives_agree_in_their_gradients():
    found = []
    for derivatives in ("forward", "reverse"):
        flow = CNF(Plain(field()), 2, derivatives=derivatives, solver="rk4", step=0.25).double()
        flow.log_prob(torch.ones(2, 2, dtype=D)).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in flow.parameters()]))
    torch.testing.assert_close(*found)


def test_the_costs_of_a_rotation_are_known():
    """dz/dt = ω (-z₂, z₁): |f|² = ω² |x|² and ‖∂f/∂z‖² = 2 ω² at all times, either way."""
    omega = 3.0
    matrix = omega * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=D)
    x = torch.randn(4, 2, dtype=D)
    for ts in ((0.0, 0.5), (0.5, 0.0)):
        for trace in ("exact", "hutchinson"):
            flow = CNF(Linear(matrix), 2, ts=ts, trace=trace, **FINE).double()
            log_p, kinetic, jacobian = flow.log_prob_and_costs(x)
            torch.testing.assert_close(kinetic, 0.5 * omega**2 * x.square().sum(-1), rtol=1e-5, atol=0)
            torch.testing.assert_close(jacobian, torch.full((4,), omega**2, dtype=D), rtol=1e-5, atol=0)
            torch.testing.assert_close(log_p, flow.base.log_prob(x), rtol=0, atol=1e-6)  # a rotation keeps volumes


def test_a_density_can_be_asked_at_any_time_of_the_flow():
    flow = CNF(field(), 2, **FINE).double()
    z = torch.randn(5, 2, dtype=D)
    half = flow.path(z, (0.0, 0.5))[-1]
    torch.testing.assert_close(flow.log_prob(z, t=0.0), flow.base.log_prob(z))
    shorter = CNF(flow.field, 2, ts=(0.0, 0.5), **FINE).double()
    torch.testing.assert_close(flow.log_prob(half, t=0.5), shorter.log_prob(half))


def test_the_end_time_can_be_learned():
    """d log p / d t₁ of dz/dt = a z in one dimension: x² a e^{-2 a t₁} - a."""
    a, x = 0.7, torch.tensor([[1.3]], dtype=D)
    ts = nn.Parameter(torch.tensor([0.0, 1.0], dtype=D))
    flow = CNF(Linear(torch.tensor([[a]], dtype=D)), 1, ts=ts, **FINE).double()
    assert any(p is ts for p in flow.parameters())
    flow.log_prob(x).sum().backward()
    exact = a * x.item() ** 2 * torch.exp(torch.tensor(-2 * a, dtype=D)).item() - a
    assert ts.grad[1].item() == pytest.approx(exact, abs=1e-5)


def test_bases_of_any_kind_keep_their_batch():
    loc = torch.randn(3, 2)
    batched = CNF(field(dtype=torch.float32), Independent(Normal(loc, 1.0), 1))
    assert batched.batch_shape == (3,) and batched.event_shape == (2,)
    assert batched.sample((4,)).shape == (4, 3, 2)
    assert batched.log_prob(torch.zeros(5, 1, 2)).shape == (5, 3)
    mixture = MixtureSameFamily(Categorical(torch.ones(3)), Independent(Normal(loc, 0.5), 1))
    flow = CNF(field(dtype=torch.float32), mixture)
    assert flow.log_prob(flow.sample((4,))).shape == (4,)
    assert flow.log_prob(torch.zeros(2)).shape == ()


def test_a_base_moves_with_the_model():
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    for base in (
        MultivariateNormal(torch.zeros(2), covariance),
        MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(torch.randn(2, 2), 1.0), 1)),
    ):
        x = torch.randn(5, 2)
        before = CNF(field(dtype=torch.float32), base).log_prob(x)
        flow = CNF(field(dtype=torch.float32), base).to(D)
        assert flow.sample((2,)).dtype == D
        torch.testing.assert_close(flow.log_prob(x.double()).float(), before, rtol=1e-4, atol=1e-4)


def test_a_base_with_weights_is_trained_too():
    class Shifted(nn.Module):
        event_shape = torch.Size([2])

        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(2))

        def log_prob(self, z):
            return Normal(self.loc, 1.0).log_prob(z).sum(-1)

        def rsample(self, shape):
            return self.loc + torch.randn(*shape, 2)

        sample = rsample

    flow = CNF(field(dtype=torch.float32), Shifted())
    flow.log_prob(torch.ones(3, 2)).sum().backward()
    assert flow.base.loc.grad.abs().sum() > 0
    assert "base.loc" in flow.state_dict() and flow.sample((2,)).shape == (2, 2)


def test_a_flow_is_fitted_by_the_kl_divergence_either_way():
    """One Gaussian to another: the least KL is 0."""
    target = MultivariateNormal(torch.tensor([1.0, -0.5]), torch.tensor([[0.5, 0.2], [0.2, 0.8]]))
    for way in ("likelihood", "matching"):
        flow = CNF(MLP((2, 2), last_gain=0.0), 2, solver="rk4", step=0.5, gradient="backprop")
        optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            if way == "likelihood":
                loss = -flow.log_prob(target.sample((256,))).mean()
            else:
                x, log_q = flow.rsample_and_log_prob((256,))
                loss = (log_q - target.log_prob(x)).mean()
            loss.backward()
            optimizer.step()
        x = target.sample((20_000,))
        with torch.no_grad():
            divergence = target.log_prob(x) - flow.log_prob(x)
        assert divergence.mean().item() < 0.02  # at the start: 1.4


def test_copies_pickles_and_state_dicts_carry_everything():
    flow = CNF(field(dtype=torch.float32), 2, rtol=1e-4)
    x = torch.randn(4, 2)
    other = CNF(field(dtype=torch.float32, gain=0.5), 2, rtol=1e-4)
    other.load_state_dict(flow.state_dict())
    for same in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)), other):
        assert torch.equal(same.log_prob(x), flow.log_prob(x))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: CNF(MLP((2, 2)), 2, trace="guess"), "trace='guess', expected 'exact' or 'hutchinson'"),
        (lambda: CNF(MLP((2, 2)), 2, noise="pink"), "noise='pink'"),
        (lambda: CNF(MLP((2, 2)), 2, derivatives="numeric"), "derivatives='numeric'"),
        (lambda: CNF(MLP((2, 2)), Normal(torch.zeros(2), 1.0)), r"event_shape \(\), expected \(D,\); .*Independent"),
        (lambda: CNF(MLP((2, 2)), 2, ts=(0.0, 0.5, 1.0)), "ts of length 3"),
        (lambda: CNF(MLP((2, 2)), 2).log_prob(torch.zeros(4, 3)), r"got \(4, 3\), expected points of shape \(..., 2\)"),
        (lambda: CNF(MLP((2, 2)), 2).log_prob(torch.zeros(4, 2), trace="some"), "trace='some'"),
    ],
)
def test_wrong_arguments_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_density_can_be_exported():
    """With fixed steps: the base looks at no number, which a graph does not have."""

    class Density(nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = CNF(MLP((2, 8, 2)), 2, solver="rk4", step=0.25)

        def forward(self, x):
            return self.flow.log_prob(x)

    density, x = Density(), torch.randn(5, 2)
    exported = torch.export.export(density, (x,)).module()
    assert torch.allclose(exported(x + 1), density(x + 1), atol=1e-6)
