"""The ODE-RNN against hand-made loops and invariances."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from isocline.gradients import Gradient
from isocline.nn import MLP, ODERNN
from isocline.nn.ode_rnn import Observations

F64 = torch.float64
NAN = float("nan")


class Decay(nn.Module):
    """dh/dt = -rate h, whose solution is known."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.7, dtype=F64))

    def forward(self, t, h):
        return -self.rate * h


def series(count=6, batch=3, inputs=2, dtype=F64):
    return torch.randn(count, batch, inputs, dtype=dtype), torch.rand(batch, count, dtype=dtype).sort(1).values


def test_it_is_the_loop_of_the_paper_written_out_for_one_sample():
    model = ODERNN(2, 5, MLP((5, 7, 5), dtype=F64)).double()
    x, ts = series()
    states = model(x, ts)
    for b in range(3):
        h = torch.zeros(1, 5, dtype=F64)
        for i in range(6):
            if i:
                h = h + (ts[b, i] - ts[b, i - 1]) * model.field(ts[b, i], h)
            assert torch.allclose(states.before[i, b], h[0])
            h = model.cell(torch.cat([x[i, b], torch.ones(2, dtype=F64)])[None], h)
            assert torch.allclose(states.after[i, b], h[0])


@pytest.mark.parametrize("options", [{"rtol": 1e-9, "atol": 1e-11}, {"solver": "rk4", "max_step": 0.01}])
@pytest.mark.parametrize("backwards", [False, True])
def test_between_observations_the_state_decays_as_its_ode_does(options, backwards):
    model = ODERNN(1, 4, Decay(), backwards=backwards, **options).double()
    x, ts = series(inputs=1)
    states = model(x, ts)
    order = list(range(6))[:: -1 if backwards else 1]
    for i, j in itertools.pairwise(order):
        factor = torch.exp(-0.7 * (ts[:, j] - ts[:, i]))[:, None]
        assert torch.allclose(states.before[j], states.after[i] * factor, rtol=1e-7)
    last = order[-1]
    end = model.encode(x, ts, at=2.0)
    assert torch.allclose(end, states.after[last] * torch.exp(-0.7 * (2.0 - ts[:, last]))[:, None], rtol=1e-7)


def test_euler_with_shorter_steps_comes_nearer_in_proportion():
    x, ts = series(inputs=1)
    exact = ODERNN(1, 4, Decay(), rtol=1e-10, atol=1e-12).double()
    want = exact.encode(x, ts, at=2.0)
    errors = []
    for max_step in (0.02, 0.01):
        model = ODERNN(1, 4, Decay(), max_step=max_step).double()
        model.load_state_dict(exact.state_dict())
        errors.append((model.encode(x, ts, at=2.0) - want).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.2)  # order one


def test_masked_values_change_no_bit():
    model = ODERNN(2, 5, MLP((5, 7, 5)))
    x, ts = series(dtype=torch.float32)
    mask = torch.rand(6, 3, 2) < 0.6
    for other in (0.0, 1e30, NAN, torch.inf):
        changed = torch.where(mask, x, other)
        assert torch.equal(model(changed, ts, mask).after, model(x, ts, mask).after)
        assert torch.equal(model.encode(changed, ts, mask, at=0.0), model.encode(x, ts, mask, at=0.0))
    assert torch.equal(model(torch.where(mask, x, NAN), ts).after, model(x, ts, mask).after)  # NaN is missing


def test_where_nothing_is_observed_nothing_jumps():
    model = ODERNN(2, 5, MLP((5, 7, 5)))
    x, ts = series(dtype=torch.float32)
    mask = torch.ones(6, 3)
    mask[2, 1] = 0
    states = model(x, ts, mask)
    assert torch.equal(states.before[2, 1], states.after[2, 1])
    assert not torch.equal(states.before[2, 0], states.after[2, 0])


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("gaps", [False, True])
def test_rows_a_sample_has_not_seen_do_not_exist_for_its_code(backwards, gaps):
    """Shared times with a mask, each sample its own times with padding, one sample alone: the same code."""
    model = ODERNN(2, 5, MLP((5, 7, 5), dtype=F64), backwards=backwards, gaps=gaps, max_step=0.05).double()
    x, grid = torch.randn(9, 3, 2, dtype=F64), torch.linspace(0.2, 1, 9, dtype=F64)
    keep = [[0, 3, 4, 8], [2, 5], [1, 2, 3, 6, 7]]
    mask = torch.zeros(9, 3)
    ts, own = torch.full((3, 6), NAN, dtype=F64), torch.full((6, 3, 2), NAN, dtype=F64)
    for b, rows in enumerate(keep):
        mask[rows, b] = 1
        ts[b, : len(rows)] = grid[rows]
        own[: len(rows), b] = x[rows, b]
    shared = model.encode(x, grid, mask, at=0.0)
    assert torch.equal(shared, model.encode(own, ts, at=0.0))
    model.max_step = None  # the steps of a gap are those the hardest sample of the batch needs
    for b, rows in enumerate(keep):
        alone = model.encode(x[rows, b : b + 1], grid[rows], at=0.0)
        assert torch.allclose(model.encode(x, grid, mask, at=0.0)[b], alone[0], rtol=1e-12)


def test_times_of_each_sample_may_be_the_same_times():
    model = ODERNN(2, 5, MLP((5, 7, 5)))
    x, ts = torch.randn(6, 3, 2), torch.linspace(0, 1, 6)
    for a, b in zip(model(x, ts), model(x, ts.expand(3, 6)), strict=True):
        assert torch.equal(a, b)


def test_a_sample_without_observations_stays_at_the_beginning():
    model = ODERNN(2, 5, MLP((5, 7, 5)), backwards=True)
    x, ts = series(dtype=torch.float32)
    mask = torch.ones(6, 3)
    mask[:, 1] = 0
    assert torch.equal(model.encode(x, ts, mask, at=-1.0)[1], torch.zeros(5))


def test_without_a_field_it_is_torchs_gru():
    model = ODERNN(2, 5, see_mask=False)
    gru = nn.GRU(2, 5)
    for name, value in model.cell.named_parameters():
        getattr(gru, f"{name}_l0").data.copy_(value.data)
    x = torch.randn(6, 3, 2)
    assert torch.allclose(model(x, range(6)).after, gru(x)[0], atol=1e-6)


def test_with_gaps_an_rnn_knows_where_it_ends():
    model = ODERNN(2, 5, gaps=True, backwards=True)
    x, ts = series(dtype=torch.float32)
    assert not torch.allclose(model.encode(x, ts, at=0.0), model.encode(x, ts, at=-1.0))
    assert torch.allclose(model.encode(x, ts, at=0.0), model.encode(x, ts + 1, at=1.0), atol=1e-5)  # float32


@pytest.mark.parametrize("gradient", sorted(set(Gradient.registry) - {"reversible_adjoint"}))
def test_every_gradient_of_a_solve_is_that_of_finite_differences(gradient):
    model = ODERNN(1, 2, Decay(), rtol=1e-10, atol=1e-12, gradient=gradient).double()
    x, ts = series(count=3, inputs=1)
    weights = torch.randn(2, dtype=F64)

    def loss():
        return (model.encode(x, ts, at=1.5) @ weights).sum()

    loss().backward()
    rate, h = model.field.rate, 1e-6
    with torch.no_grad():
        rate += h
        up = loss().item()
        rate -= 2 * h
        down = loss().item()
        rate += h
    assert rate.grad.item() == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_times_have_gradients():
    model = ODERNN(1, 2, MLP((2, 4, 2), dtype=F64)).double()
    x, ts = series(count=3, inputs=1)
    assert torch.autograd.gradcheck(lambda ts: model.encode(x, ts), (ts.requires_grad_(),))


def test_copies_pickles_and_other_dtypes():
    model = ODERNN(2, 5, MLP((5, 7, 5)))
    x, ts = series(dtype=torch.float32)
    want = model.encode(x, ts, at=0.0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.encode(x, ts, at=0.0), want)
    double = copy.deepcopy(model).double().encode(x.double(), ts.double(), at=0.0)
    assert double.dtype == F64 and torch.allclose(double.float(), want, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "ts", "mask", "says"),
    [
        (torch.zeros(4, 2), range(4), None, "expected \\(times, batch, observed\\)"),
        (torch.zeros(4, 3, 2), range(5), None, "expected \\(4,\\) or \\(3, 4\\)"),
        (torch.zeros(4, 3, 2), [0, 2, 1, 3], None, "decreases"),
        (torch.zeros(4, 3, 2), range(4), torch.ones(3, 4), "mask: shape \\(3, 4\\)"),
        (torch.zeros(4, 3, 5), range(4), None, "5 numbers at a time, expected 2"),
    ],
)
def test_what_does_not_fit_is_named(unchecked, x, ts, mask, says):
    with pytest.raises(ValueError, match=says):
        ODERNN(2, 5)(x, list(ts), mask)


def test_refused_settings():
    with pytest.raises(ValueError, match="max_step=-1"):
        ODERNN(2, 5, max_step=-1)
    with pytest.raises(ValueError, match="inputs=0"):
        ODERNN(0, 5)


def test_observations_fill_padding_with_the_last_time():
    ts = torch.tensor([[0.0, 1.0, NAN], [2.0, NAN, NAN]])
    seen = Observations.of(torch.ones(3, 2, 1), ts)
    assert seen.ts.t().tolist() == [[0, 1, 1], [2, 2, 2]]
    assert seen.mask[..., 0].t().tolist() == [[True, True, False], [True, False, False]]
