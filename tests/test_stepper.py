"""A solve taken step by step is the solve, however often it is stopped, saved, extended."""

import pickle

import pytest
import torch

import isocline as ic
from isocline.solvers import Solver

F64 = torch.float64
SOLVERS = sorted(name for name, cls in Solver.registry.items() if not cls.wants_pair)
Y0 = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=F64)


def field(t, y):
    x, v = y.unbind(-1)
    return torch.stack((v, 3 * (1 - x**2) * v - x + torch.cos(3 * t)), -1)


def options(name):
    tolerances = {"rtol": 1e-4, "atol": 1e-6} if Solver.named(name).error_order else {"step": 0.01}
    return {"solver": name, **tolerances}


@pytest.mark.parametrize("name", SOLVERS)
def test_its_steps_are_those_of_the_solve(name):
    sol = ic.solve(field, Y0, [0.0, 1.0], dense=True, jump_ts=[0.4], **options(name))
    stepper = ic.Stepper(field, Y0, 0.0, 1.0, jump_ts=[0.4], dense=True, **options(name))
    path = [(0.0, Y0), *stepper]
    assert [t for t, _ in path] == sol.accepted_ts.tolist()
    assert torch.equal(path[-1][1], sol.ys[-1]) and stepper.done and not stepper.step()
    for count in ("accepted", "rejected", "evaluations", "jacobians"):
        assert getattr(stepper.stats, count) == getattr(sol.stats, count), count


@pytest.mark.parametrize("name", SOLVERS)
def test_an_end_that_is_moved_is_a_time_stepped_to(name):
    sol = ic.solve(field, Y0, [0.0, 1.0], step_ts=[0.35], **options(name))
    stepper = ic.Stepper(field, Y0, 0.0, 0.35, **options(name))
    list(stepper)
    assert stepper.done
    stepper.extend(1.0)
    list(stepper)
    if Solver.named(name).error_order:
        assert torch.equal(stepper.y, sol.ys[-1])
    else:  # the grid is counted from the end that was moved
        torch.testing.assert_close(stepper.y, sol.ys[-1], rtol=1e-12, atol=1e-12)
    assert stepper.stats.accepted == sol.stats.accepted and stepper.stats.evaluations == sol.stats.evaluations


@pytest.mark.parametrize("name", ["tsit5", "rk4", "rodas5_p", "radau_iia5", "bdf", "adams_moulton"])
def test_it_goes_on_after_saving(name):
    """In another process the steps are as long; what a solver with a memory had is begun anew."""
    whole = ic.Stepper(field, Y0, 0.0, 1.0, **options(name))
    for _ in range(7):
        whole.step()
    state = pickle.loads(pickle.dumps(whole.state_dict()))
    other = ic.Stepper(field, torch.zeros_like(Y0), 0.0, 1.0, **options(name))
    other.load_state_dict(state)
    assert other.t == whole.t and torch.equal(other.y, whole.y)
    list(other), list(whole)
    assert other.done
    torch.testing.assert_close(other.y, whole.y, rtol=1e-3, atol=1e-3)
    if name in ("tsit5", "rk4"):  # nothing but rounding of the grid is new
        torch.testing.assert_close(other.y, whole.y, rtol=1e-12, atol=1e-12)


def test_the_state_can_be_changed_on_the_way():
    options = {"step_ts": [1.0], "rtol": 1e-9, "atol": 1e-11}
    stepper = ic.Stepper(lambda t, y: {"a": -y["a"]}, {"a": torch.ones(1, dtype=F64)}, 0.0, 2.0, **options)
    for t, y in stepper:
        if t == 1.0:
            stepper.y = {"a": y["a"] + 1}
    want = (torch.exp(torch.tensor(-1.0, dtype=F64)) + 1) * torch.exp(torch.tensor(-1.0, dtype=F64))
    assert stepper.y["a"].item() == pytest.approx(want.item(), rel=1e-7)


@pytest.mark.parametrize("solver", ["tsit5", "bdf", "rk4"])
def test_a_field_that_changes_is_asked_anew(solver):
    rate = [1.0]
    how = {"step": 0.01} if solver == "rk4" else {"rtol": 1e-7, "atol": 1e-9}
    stepper = ic.Stepper(lambda t, y: -rate[0] * y, torch.ones(1, dtype=F64), 0.0, 1.0, solver=solver, **how)
    list(stepper)
    rate[0] = 3.0
    stepper.jump()
    stepper.extend(2.0)
    list(stepper)
    assert stepper.y.item() == pytest.approx(torch.tensor(-4.0, dtype=F64).exp().item(), rel=1e-4)


def test_it_looks_into_its_last_step():
    stepper = ic.Stepper(lambda t, y: -y, torch.ones(1, dtype=F64), 0.0, 2.0, dense=True, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="take one"):
        stepper.at(0.0)
    before = 0.0
    for t, _ in stepper:
        middle = (before + t) / 2
        assert stepper.at(middle).item() == pytest.approx(torch.tensor(-middle, dtype=F64).exp().item(), rel=1e-6)
        before = t
    with pytest.raises(ValueError, match="outside"):
        stepper.at(0.0)


def test_backwards_in_time():
    stepper = ic.Stepper(lambda t, y: -y, torch.ones(1, dtype=F64), 1.0, 0.0, rtol=1e-8, atol=1e-10)
    list(stepper)
    assert stepper.y.item() == pytest.approx(torch.tensor(1.0, dtype=F64).exp().item(), rel=1e-6)
    with pytest.raises(ValueError, match="expected a time before t=0"):
        stepper.extend(0.5)


def test_a_step_that_cannot_be_taken_says_why():
    stepper = ic.Stepper(lambda t, y: y * y, torch.ones(1, dtype=F64), 0.0, 2.0)
    with pytest.raises(ic.SolveError, match="t = 1") as stopped:
        list(stepper)
    assert stopped.value.status is ic.Status.BLOW_UP and 0.99 < stepper.t < 1.01
    assert torch.equal(stopped.value.solution.ys[0], stepper.y)


def test_fixed_steps_stop_where_they_overflow():
    stepper = ic.Stepper(lambda t, y: y * y, torch.ones(1, dtype=F64), 0.0, 20.0, solver="euler", step=0.5)
    with pytest.raises(ic.SolveError):
        list(stepper)
    assert bool(stepper.y.isfinite().all()) and 0 < stepper.t < 20


@pytest.mark.parametrize(
    "how",
    [{"rtol": 1e-7, "atol": 1e-9}, {"solver": "bdf", "rtol": 1e-7, "atol": 1e-9}, {"solver": "euler", "step": 0.01}],
)
def test_after_a_failure_it_fails_again_until_something_changes(how):
    sign = [1.0]
    stepper = ic.Stepper(lambda t, y: sign[0] * y * y, torch.ones(1, dtype=F64), 0.0, 3.0, **how)
    for _ in range(2):
        with pytest.raises(ic.SolveError):
            list(stepper)
    t = stepper.t
    sign[0] = -1.0
    stepper.jump(torch.ones(1, dtype=F64))
    list(stepper)
    assert stepper.done and stepper.y.item() == pytest.approx(1 / (1 + 3.0 - t), rel=1e-2)


@pytest.mark.parametrize("solver", ["tsit5", "bdf", "rk4"])
@pytest.mark.parametrize("when", [0, 3])
def test_a_step_in_which_the_field_raised_can_be_tried_again(solver, when):
    broken = [False]

    def field(t, y):
        if broken[0] and float(t) > stepper.t:
            raise KeyError("no value there")
        return -y

    how = {"step": 0.01} if solver == "rk4" else {"rtol": 1e-7, "atol": 1e-9}
    stepper = ic.Stepper(field, torch.ones(1, dtype=F64), 0.0, 1.0, solver=solver, **how)
    for _ in range(when):
        stepper.step()
    broken[0] = True
    for _ in range(2):
        with pytest.raises(KeyError, match="no value"):
            stepper.step()
    broken[0] = False
    list(stepper)
    assert stepper.y.item() == pytest.approx(torch.tensor(-1.0, dtype=F64).exp().item(), rel=1e-4)


def test_a_jump_before_the_first_step_costs_nothing():
    plain, jumped = (ic.Stepper(lambda t, y: -y, 2 * torch.ones(1, dtype=F64), 0.0, 1.0) for _ in range(2))
    jumped.jump(2 * torch.ones(1, dtype=F64))
    assert [t for t, _ in plain] == [t for t, _ in jumped] and plain.stats == jumped.stats


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="Stepper needs one of isocline's"):
        ic.Stepper(field, Y0, 0.0, 1.0, solver=ic.solvers.Scipy("RK45"))
    with pytest.raises(ValueError, match="solver: unknown 'tsit'"):
        ic.Stepper(field, Y0, 0.0, 1.0, solver="tsit")
    with pytest.raises(ValueError, match="t1="):
        ic.Stepper(field, Y0, 0.0, float("inf"))
