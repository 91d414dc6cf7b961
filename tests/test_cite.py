"""Every method says where it comes from, and `cite` finds it."""

import pytest

import isocline as ic
from isocline.gradients import Gradient
from isocline.solvers import Solver


@pytest.mark.parametrize("name", sorted(Solver.registry))
def test_every_solver_has_a_source(name):
    cited = ic.cite(name)
    assert cited.startswith(f"{Solver.registry[name].__name__}: ") and len(cited) > 25 and "\n" not in cited


def test_every_gradient_but_plain_autograd_has_a_source():
    without = [name for name in Gradient.registry if not ic.cite(name)]
    assert without == ["backprop"]


def test_what_a_part_is_made_of_is_cited_with_it():
    model = ic.nn.NeuralODE(ic.nn.MLP((2, 8, 2)), solver=ic.Reversible(ic.Tsit5()), gradient="reversible_adjoint")
    names = [line.partition(":")[0] for line in ic.cite(model, ic.PID(), "tsit5").splitlines()]
    assert names == ["NeuralODE", "Reversible", "Tsit5", "ReversibleAdjoint", "PID"]


@pytest.mark.parametrize("model", [n for n in ic.nn.__all__ if n.endswith(("ODE", "CDE", "RNN", "CNF"))])
def test_every_model_has_a_source(model):
    assert ic.cite(getattr(ic.nn, model)).startswith(model)


def test_what_cannot_be_cited_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no solver or gradient 'tsit6'; there are .*tsit5"):
        ic.cite("tsit6")
    with pytest.raises(TypeError, match=r"got int, expected a solver"):
        ic.cite(3)
