"""Looking on while a solve steps, forced steps, tiny intervals, rounding, transforms."""

import itertools
import math

import pytest
import torch

import isocline as ic

F64 = torch.float64


def decay(t, y):
    return -y


@pytest.mark.parametrize("gradient", ["backprop", "checkpointed"])
@pytest.mark.parametrize("ts", [[0.0, 2.0], [2.0, 0.0]])
def test_an_observer_sees_every_step_and_no_replay(gradient, ts):
    seen = []
    watch = ic.Observer(*(lambda t, y, h, kind=kind: seen.append((kind, t, y, h)) for kind in "tar"))
    y0 = {"x": torch.ones(2, dtype=F64, requires_grad=True)}
    k = torch.tensor(1.0, dtype=F64, requires_grad=True)
    sol = ic.solve(
        lambda t, y: {"x": -k * torch.sin(9 * y["x"])},
        y0,
        ts,
        gradient=gradient,
        observer=watch,
        controller=ic.PID(first_step=1.0),
    )
    count = len(seen)
    sol.ys["x"].sum().backward()
    kinds = "".join(kind for kind, *_ in seen)
    assert len(seen) == count
    assert kinds.count("a") == sol.stats.accepted and kinds.count("r") == sol.stats.rejected > 0
    assert set(kinds[::2]) == {"t"} and "t" not in kinds[1::2]
    assert all(y["x"].shape == (2,) for _, _, y, _ in seen)
    accepted = [(t, h) for kind, t, _, h in seen if kind == "a"]
    assert sum(h for _, h in accepted) == pytest.approx(ts[1] - ts[0])
    assert all(t + h == pytest.approx(after) for (t, h), (after, _) in itertools.pairwise(accepted))


def test_an_observer_sees_fixed_steps():
    lengths = []
    watch = ic.Observer(tried=lambda t, y, h: lengths.append(h))
    ic.solve(decay, torch.ones(1), [0.0, 1.0], solver="euler", step=0.4, observer=watch)
    assert lengths == pytest.approx([0.4, 0.4, 0.2])


def test_an_observer_of_samples_is_refused():
    with pytest.raises(ValueError, match="observer"):
        ic.solve(decay, torch.ones(2, 1), [0.0, 1.0], batching="per_sample", observer=ic.Observer())


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_a_forced_smallest_step_is_taken_whatever_its_error(batching):
    controller = ic.PID(1e-10, 1e-12, min_step=0.25, force_min_step=True)
    y0 = torch.ones(2, 1, dtype=F64)
    sol = ic.solve(decay, y0, [0.0, 2.0], controller=controller, batching=batching, dense=True)
    assert bool((torch.as_tensor(sol.stats.accepted) == 8).all()) and sol.success
    assert torch.allclose(sol.ys[-1], torch.tensor(math.exp(-2), dtype=F64), rtol=1e-4)


@pytest.mark.parametrize("batching", ["shared", "per_sample"])
def test_a_forced_smallest_step_does_not_go_into_nan(batching):
    controller = ic.PID(1e-6, 1e-6, min_step=0.1, force_min_step=True)
    sol = ic.solve(
        lambda t, y: y / (t < 0.55), torch.ones(1, 1), [0.0, 1.0], controller=controller, batching=batching, throw=False
    )
    assert not sol.success and bool(sol.ys[-1].isnan().all())


def test_without_force_the_smallest_step_ends_the_solve():
    with pytest.raises(ic.SolveError, match="step"):
        ic.solve(decay, torch.ones(1, dtype=F64), [0.0, 2.0], controller=ic.PID(1e-10, 1e-12, min_step=0.25))


@pytest.mark.parametrize("spacings", [1, 2, 5, 40])
@pytest.mark.parametrize("size", [1.0, 1e-16])
def test_an_interval_of_a_few_spacings_is_solved(spacings, size):
    end = 5.0
    for _ in range(spacings):
        end = math.nextafter(end, 6.0)
    y0 = torch.tensor([size], dtype=F64)
    for ts in ([5.0, end], [end, 5.0]):
        y = ic.solve(lambda t, y: torch.ones_like(y), y0, ts, rtol=1e-9, atol=1e-11).ys[-1]
        assert y.item() == pytest.approx(size + (ts[1] - ts[0]), abs=1e-24, rel=1e-15)


def test_many_recorded_steps_round_like_many_plain_ones():
    """Float32 rounding of a constant slope: once a step, whether or not a graph is recorded."""
    y0 = torch.full((1,), 3.0, requires_grad=True)
    exact = 3.0 + 0.2
    for solver in ("rk4_three_eighths", "dopri5"):
        recorded = ic.solve(lambda t, y: 0.2 + 0 * y, y0, [0.0, 1.0], solver=solver, step=1e-3, gradient="backprop").ys
        with torch.no_grad():
            plain = ic.solve(lambda t, y: 0.2 + 0 * y, y0, [0.0, 1.0], solver=solver, step=1e-3).ys
        errors = [abs(ys[-1].item() - exact) for ys in (recorded, plain)]
        # Half a spacing (1.2e-7 at 3) a step at most; once a stage would allow four and six times that.
        assert errors[0] <= 1.5 * errors[1] + 1e-6


@pytest.mark.parametrize("options", [{"solver": "rk4", "step": 0.05}, {"solver": "euler", "step": 0.1}])
def test_fixed_steps_under_vmap_are_a_loop(options):
    starts = torch.tensor([[1.0, 0.0], [0.2, 0.4], [-2.0, 1.0]], dtype=F64)

    def run(y0):
        field = lambda t, y: torch.stack((y[1], -torch.sin(y[0])))
        return ic.solve(field, y0, [0.0, 0.5, 1.0], gradient="backprop", **options).ys[-1]

    assert torch.allclose(torch.vmap(run)(starts), torch.stack([run(y) for y in starts]), rtol=1e-12)
    jacobian = torch.func.jacrev(run)(starts[0])
    assert torch.allclose(jacobian, torch.func.jacfwd(run)(starts[0]), rtol=1e-10)
