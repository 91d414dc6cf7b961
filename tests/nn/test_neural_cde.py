"""Neural CDEs: what their paths pass through and depend on, and solutions against what is known of them."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import nn

import isocline as ic
from isocline.nn import MatrixField, NeuralCDE, control_path
from isocline.nn.control_path import KINDS, Derivative

F64 = torch.float64
NAN = math.nan
EPS = torch.finfo(F64).eps
SMOOTH = [kind for kind in KINDS if kind != "rectilinear"]
TIGHT = {"solver": "dopri8", "step": None, "rtol": 1e-8, "atol": 1e-10}


def data(batch=3, count=9, channels=2):
    """Observations at irregular times, some missing, all known at the first."""
    x = torch.randn(count, batch, channels, dtype=F64)
    missing = torch.rand_like(x) < 0.3
    missing[0] = False
    return torch.where(missing, NAN, x), 0.1 + torch.rand(batch, count, dtype=F64).cumsum(1)


def model(path="hermite", channels=3, **options):
    field = MatrixField(4, channels, 16, activation="softplus", dtype=F64)
    return NeuralCDE(field, nn.Linear(channels, 4, dtype=F64), path=path, **{"solver": "rk4", "step": 0.25, **options})


def along(loss, x, direction, step=1e-5):
    """The derivative of the loss along a direction, by a central difference."""
    with torch.no_grad():
        return (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)


# ---- paths --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_a_path_passes_through_what_was_observed_with_time_first(kind):
    x, ts = data()
    path = control_path(x, ts, kind=kind)
    stride = 2 if kind == "rectilinear" else 1
    for k in range(len(x)):
        found = path(float(stride * k))
        assert torch.equal(found[:, 0], ts[:, k])
        observed = ~x[k].isnan()
        assert torch.equal(found[:, 1:][observed], x[k][observed])


@pytest.mark.parametrize("kind", SMOOTH)
def test_gaps_lie_on_straight_lines_in_time_and_ends_are_held(kind):
    x = torch.tensor([NAN, 1.0, NAN, NAN, 4.0, NAN], dtype=F64).view(6, 1, 1)
    path = control_path(x, [0.0, 1.0, 1.5, 3.0, 4.0, 9.0], kind=kind)
    found = torch.stack([path(float(k))[0, 1] for k in range(6)])
    assert torch.allclose(found, torch.tensor([1.0, 1.0, 1.5, 3.0, 4.0, 4.0], dtype=F64), rtol=0, atol=8 * EPS)


def test_on_a_rectilinear_path_time_and_values_move_in_turn():
    x = torch.tensor([NAN, 1.0, NAN, 4.0], dtype=F64).view(4, 1, 1)
    path = control_path(x, [0.0, 1.0, 1.5, 3.0], kind="rectilinear")
    corners = torch.stack([path(float(s))[0] for s in range(7)])
    assert corners.tolist() == [[0, 0], [1, 0], [1, 1], [1.5, 1], [1.5, 1], [3, 1], [3, 4]]


def test_the_natural_spline_is_scipys_in_samples_of_any_length():
    lengths = torch.tensor([9, 2, 5])
    x = torch.randn(9, 3, 2, dtype=F64)
    path = control_path(x, lengths=lengths, kind="natural")
    for i, n in enumerate(lengths.tolist()):
        spline = CubicSpline(np.arange(n), x[:n, i].numpy(), bc_type="natural")
        s = torch.linspace(0, n - 1, 23, dtype=F64)
        found = torch.stack([path(one)[i] for one in s])
        # The condition number of the matrix is below 6: its eigenvalues lie between 1 and 6.
        assert torch.allclose(found, torch.as_tensor(spline(s.numpy())), rtol=0, atol=1e3 * EPS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_is_that_of_the_path(kind):
    x, ts = data()
    path = control_path(x, ts, kind=kind)
    end = path.values.shape[1] - 1
    for s in np.arange(
        0.3, end, 1.0
    ):  # within pieces, where a central difference of a cubic errs by h² times its third slope
        h = 1e-4
        slope = (path(s + h) - path(s - h)) / (2 * h)
        third = 12 * path.values.diff(dim=1).abs().max()
        assert torch.allclose(Derivative(path)(s), slope, rtol=0, atol=float(third) * h**2)


def test_counts_say_how_often_each_channel_was_observed():
    x = torch.tensor([[[1.0, NAN]], [[NAN, NAN]], [[3.0, 5.0]]])
    path = control_path(x, [0.0, 1.0, 2.0], kind="linear", intensity=True)
    assert [path(float(k))[0, 3:].tolist() for k in range(3)] == [[1, 0], [1, 0], [2, 1]]


def test_a_rectilinear_path_depends_on_nothing_later():
    x, ts = data()
    other, later = x.clone(), ts.clone()
    other[5:], later[:, 5:] = torch.randn(4, 3, 2, dtype=F64), ts[:, 5:] + 1.0
    one, two = (control_path(*pair, kind="rectilinear", intensity=True) for pair in ((x, ts), (other, later)))
    # Up to the fourth observation, at s = 8; from there time moves on towards the fifth.
    for s in np.linspace(0, 8, 40):
        assert torch.equal(one(s), two(s))
    assert not torch.equal(one(8.5), two(8.5))


def test_a_backward_difference_path_looks_ahead_by_one_observation():
    x, ts = torch.randn(9, 3, 2, dtype=F64), data()[1]
    other = x.clone()
    other[5:] = torch.randn(4, 3, 2, dtype=F64)
    one, two = control_path(x, ts), control_path(other, ts)
    for s in np.linspace(0, 4, 40):
        assert torch.equal(one(s), two(s))
    assert not torch.equal(one(4.5), two(4.5))


# ---- states -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("path", "batching"), [*((kind, "shared") for kind in KINDS), ("hermite", "per_sample")])
def test_a_linear_cde_of_one_channel_is_a_matrix_exponential(path, batching):
    # dz = A z dX with one channel: z = exp(A (X(end) − X(0))) z(0) whatever the path between.
    a = torch.tensor([[-0.3, 2.0], [-2.0, -0.1]], dtype=F64)

    class Linear(nn.Module):
        def forward(self, s, z):
            return torch.stack([torch.zeros_like(z), z @ a.T], -1)  # nothing for time

    x, ts = torch.rand(6, 3, 1, dtype=F64), data(3, 6)[1]
    start = nn.Linear(2, 2, dtype=F64)
    states = NeuralCDE(Linear(), start, path=path, returns="path", batching=batching, **TIGHT)(x, ts)
    first = start(torch.cat([ts[:, :1], x[0]], 1))
    for k in range(6):
        exact = torch.linalg.matrix_exp(a * (x[k] - x[0]).unsqueeze(2)) @ first.unsqueeze(2)
        assert torch.allclose(states[k], exact.squeeze(2), rtol=0, atol=1e-6)  # 1e2 times the tolerance


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_padding_changes_nothing(path, batching):
    x, ts = data()
    lengths = torch.tensor([9, 4, 1])
    padding = torch.arange(9) >= lengths.unsqueeze(1)
    ragged = torch.where(padding, NAN, ts)
    rubbish = torch.where(padding.t().unsqueeze(2), math.inf, x)
    whole = model(path, returns="path", intensity=True, channels=5, batching=batching)
    by_times, by_lengths = whole(rubbish, ragged), whole(x, ts, lengths)
    assert torch.equal(by_times, by_lengths)
    for i, n in enumerate(lengths.tolist()):
        alone = whole(x[:n, i], ts[i, :n])
        # Fixed steps: the same arithmetic but for the times next to a knot, which lie an ulp of s beside it.
        assert torch.allclose(by_times[:n, i], alone, rtol=0, atol=1e-12)
        assert torch.equal(by_times[n - 1 :, i], by_times[n - 1, i].expand(10 - n, -1))


@pytest.mark.parametrize("path", KINDS)
def test_an_observation_of_nothing_changes_nothing_where_lines_are_straight(path):
    # A row in which all is missing adds a knot on a straight line. A smooth path has another slope there.
    x, ts = torch.randn(6, 2, 2, dtype=F64), data(2, 6)[1]
    more = torch.cat([x[:3], torch.full((1, 2, 2), NAN, dtype=F64), x[3:]])
    times = torch.cat([ts[:, :3], ts[:, 2:4].mean(1, keepdim=True), ts[:, 3:]], 1)
    cde = model(path, **TIGHT)
    one, two = cde(x, ts), cde(more, times)
    if path in ("linear", "rectilinear"):
        assert torch.allclose(one, two, rtol=0, atol=1e-6)
    else:
        assert not torch.allclose(one, two, rtol=0, atol=1e-6)


def test_states_on_a_rectilinear_path_are_online():
    x, ts = data()
    other = x.clone()
    other[5:] = 7.0
    online = model("rectilinear", returns="path", intensity=True, channels=5)
    one, two = online(x, ts), online(other, ts)
    assert torch.equal(one[:5], two[:5]) and not torch.equal(one[5], two[5])


def test_fixed_steps_converge_to_a_tight_solve():
    x, ts = data()
    cde = model(returns="end")
    tight = cde.solution(x, ts, **{**TIGHT, "rtol": 1e-11, "atol": 1e-13}).ys[-1].detach()
    errors = [float((cde.solution(x, ts, step=h).ys[-1].detach() - tight).abs().max()) for h in (0.125, 0.0625)]
    assert abs(math.log2(errors[0] / errors[1]) - 4) < 0.6  # fourth order: the kinks at knots do not cost any


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("gradient", ["checkpointed", "backprop"])
def test_gradients_are_those_of_finite_differences_to_data_times_and_weights(path, gradient):
    x, ts = data(2, 4)
    cde, seen = model(path, gradient=gradient, step=0.5), torch.randn(2, 4, dtype=F64)
    missing, bias = x.isnan(), cde.initial.bias
    values, times = x.nan_to_num(7.0).requires_grad_(), ts.clone().requires_grad_()

    def loss(values, times):
        return (cde(torch.where(missing, NAN, values), times) * seen).sum()

    def of_bias(b):
        kept, bias.data = bias.data, b
        out = loss(values, times)
        bias.data = kept
        return out

    found = torch.autograd.grad(loss(values, times), (values, times, bias))
    assert torch.equal(found[0][missing], torch.zeros_like(found[0][missing]))
    losses = (lambda v: loss(v, times), lambda t: loss(values, t), of_bias)
    for one, at, ours in zip(losses, (values, times, bias), found, strict=True):
        direction = torch.randn_like(ours)
        # Differences of step 1e-5 err by 1e-10 times a third derivative, and by 1e-15/1e-5 from rounding.
        assert torch.allclose(
            (ours * direction).sum(), along(one, at.detach().clone(), direction), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("gradient", ["gauss_adjoint", ic.Backsolve(rtol=1e-6, atol=1e-8)], ids=["gauss", "backsolve"])
def test_continuous_adjoints_agree_with_the_discrete_one(gradient):
    x, ts = data(2, 3)
    x.requires_grad_()
    cde = model(**{**TIGHT, "rtol": 1e-6, "atol": 1e-8})
    weights = (x, *cde.parameters())
    exact, found = (
        torch.autograd.grad(cde.solution(x, ts, gradient=g).ys[-1].sum(), weights) for g in ("checkpointed", gradient)
    )
    for ours, theirs in zip(found, exact, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)  # 1e3 times the tolerance


def test_a_single_observation_gives_the_initial_state():
    x, ts = data(3, 1)
    cde = model()
    assert torch.equal(cde(x, ts), cde.initial(torch.cat([ts, x[0]], 1)))


def test_without_times_there_is_no_channel_of_time():
    x, ts = torch.randn(9, 3, 2, dtype=F64), data()[1]
    own = torch.cat([ts.t().unsqueeze(2), x], 2)
    cde = model()
    assert torch.equal(cde(own), cde(x, ts))


def test_a_model_trains_copies_and_pickles():
    cde = NeuralCDE(MatrixField(4, 3, 16, seed=1), nn.Linear(3, 4), solver="rk4", step=1.0)
    x, ts = torch.randn(10, 8, 2), torch.linspace(0, 1, 10)
    optimizer = torch.optim.Adam(cde.parameters(), 0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (cde(x, ts) - 1.0).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    for twin in (copy.deepcopy(cde), pickle.loads(pickle.dumps(cde))):
        assert torch.equal(twin(x, ts), cde(x, ts))
    double = copy.deepcopy(cde).double()
    # Float32 rounds each of some 40 stages.
    assert torch.allclose(double(x.double(), ts.double()).float(), cde(x, ts), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ts": torch.zeros(5)}, r"ts: shape \(5,\), expected \(9,\) or \(3, 9\)"),
        ({"ts": torch.zeros(9)}, "strictly increasing"),
        ({"lengths": torch.tensor([0, 3, 4])}, r"lengths: \[0, 3, 4\]"),
        ({"x": torch.zeros(9, 3, 2, dtype=torch.int64)}, "floating point"),
        ({"kind": "cubic"}, "expected one of hermite"),
        ({"kind": "rectilinear", "ts": None}, "give the times"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    x, ts = data()
    given = {"x": x, "ts": ts, **change}
    with pytest.raises(ValueError, match=message):
        control_path(**given)


def test_a_field_of_another_shape_is_told_what_the_channels_are():
    x, ts = data()
    wrong = NeuralCDE(MatrixField(4, 2, dtype=F64), nn.Linear(3, 4, dtype=F64))
    with pytest.raises(ValueError, match=r"returned shape \(3, 4, 2\), expected \(3, 4, 3\)"):
        wrong(x, ts)
    for options in ({"path": "cubic"}, {"returns": "all"}):
        with pytest.raises(ValueError, match="NeuralCDE: "):
            NeuralCDE(MatrixField(4, 2), nn.Linear(3, 4), **options)
