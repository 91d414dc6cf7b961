"""A tableau that cannot be a Runge–Kutta method of its order is refused, with the condition it misses."""

import pytest

from isocline.solvers import ButcherTableau, Dopri5, Solver
from isocline.solvers.tableau import rooted_trees

HEUN = {"c": (0, 1), "a": ((1,),), "b": (0.5, 0.5), "order": 2, "dense": ((1, -0.5), (0, 0.5)), "dense_order": 2}


def changed(**change):
    return ButcherTableau(**{**HEUN, **change})


def test_trees_are_counted_as_in_the_literature():
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


def test_a_right_tableau_is_accepted():
    assert not changed().fsal


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"c": (0, 0.9)}, "row 2 of a sums to"),
        ({"b": (0.6, 0.5)}, "order-1 condition"),
        ({"b": (0.4, 0.6)}, "order-2 condition"),
        ({"order": 3}, "order-3 condition"),
        ({"dense": ((1, -0.6), (0, 0.6))}, "dense output"),
        ({"dense_order": 3}, "order-3 condition"),
        ({"b_error": (0.5, 0.5), "embedded_order": 1}, "embedded solution"),
        ({"b": (1.0,)}, "do not fit together"),
    ],
)
def test_a_wrong_number_is_named(change, says):
    with pytest.raises(ValueError, match=says):
        changed(**change)


def test_first_same_as_last_is_derived():
    fsal = {name for name, cls in Solver.registry.items() if cls().tableau.fsal}
    assert fsal >= {"bosh3", "dopri5", "dopri8", "tsit5", "vern7", "vern9"}


def test_one_digit_wrong_in_a_long_method_is_found():
    tableau = Dopri5.tableau
    row = list(tableau.a[4])
    row[2] += 1e-9
    row[0] -= 1e-9  # the row sum stays right
    with pytest.raises(ValueError, match="condition of tree"):
        ButcherTableau(
            c=tableau.c,
            a=(*tableau.a[:4], tuple(row), *tableau.a[5:]),
            b=tableau.b,
            order=5,
            dense=tableau.dense,
            dense_order=4,
        )
