"""Names: who is a state, an input, a parameter, and what is said of one that is nobody."""

import pytest

from isocline.equations.errors import EquationError
from isocline.equations.parameters import declared
from isocline.equations.system import Net, System


def test_every_name_finds_its_role():
    s = System.of(
        "dlevel1 = -k*sqrt(level1) + b*pump + net(level1, w, width=8); rate = k*level1; d level2 = 1".replace(
            "d l", "dl"
        )
        + "; level2(0) = 3*k0; level2_cm = rate*level2*pi*t",
        states=["level2", "level1"],
        inputs=["pump"],
        covariates=["w"],
        parameters=declared("k0 = 2\nk > 0"),
    )
    assert s.states == ("level2", "level1") and list(s.rates) == ["level2", "level1"]
    assert [p.name for p in s.parameters] == ["k0", "k", "b"]
    assert list(s.definitions) == ["rate", "level2_cm"] and list(s.initial) == ["level2"]
    assert s.nets == {"net": Net(2, 8, 1, "tanh")}


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("dx = -x; dy = x", ("x", "y")),
        ("dy/dt = x; dx/dt = y", ("y", "x")),
        ("decay = k*x; dx = -decay", ("x",)),
        ("d`body mass` = 1", ("body mass",)),
    ],
)
def test_states_are_found_from_their_derivatives(text, states):
    assert System.of(text).states == states


def test_definitions_are_computed_before_they_are_used():
    s = System.of("dx = c; c = a + b; b = 2*a; a = k*x")
    assert list(s.definitions) == ["a", "b", "c"]
    assert s.needs(s.rates["x"]) == ["a", "b", "c"]


def test_what_is_written_reads_as_the_same_system():
    text = "r = k*x^2 - (a - b); d`y z` = net2(x, depth=2) + net2(`y z`); dx = -r; x(0) = 2*k"
    s = System.of(text)
    again = System.of("\n".join(s.lines()), states=s.states)
    assert again == s


def given(**roles):
    return {"states": ["level1", "level2"], "inputs": ["pump"], **roles}


BOTH = "; dlevel2 = 1"


@pytest.mark.parametrize(
    ("text", "pointed", "says"),
    [
        ("dlevel1 = k*levle2" + BOTH, "levle2", "did you mean level2?"),
        ("dlevel1 = k*Level2" + BOTH, "Level2", "did you mean level2?"),
        ("dlevel1 = k*pmup" + BOTH, "pmup", "If it is a parameter, declare it"),
        ("dlevle1 = k" + BOTH, "dlevle1", "did you mean dlevel1?"),
        ("dx/dt = k" + BOTH, "dx/dt", "x is no state; there are level1, level2"),
        ("dlevel1 = k", "dlevel1", r"no equation for the state level2, expected one such as dlevel2 = net\("),
        ("dlevel1 = k; dlevel1 = 2" + BOTH, "dlevel1 = 2", "given twice"),
        ("dlevel1 = a; a = b; b = a" + BOTH, "a = b", "a is defined by itself: a → b → a"),
        ("dlevel1 = a; a = 2*a" + BOTH, "a = 2", "a is defined by itself: a → a"),
        ("dlevel1 = dlevel2" + BOTH, "dlevel2\x20", "is a derivative; define what it is"),
        ("level1 = k" + BOTH, "level1", "its derivative is written dlevel1"),
        ("pump = k" + BOTH, "pump", "pump is an input"),
        ("exp = k" + BOTH, "exp", "means something already"),
        ("net1 = k" + BOTH, "net1", "means something already"),
        ("t = k" + BOTH, "t =", "means something already"),
        ("dlevel1 = exp" + BOTH, "exp", "is a function, expected its argument"),
        ("dlevel1 = net(level1) + net(level2)" + BOTH, "net(level2)", "name two networks net1"),
        ("dlevel1 = net1(level1) + net1(level1, level2)" + BOTH, "net1(level1, ", "expected one function"),
        ("dlevel1 = net1(t) + net1(pump, width=3)" + BOTH, "net1(pump", "other options"),
        ("dlevel1 = net(t, activation=relu)" + BOTH, "net", "expected tanh, softplus or sigmoid"),
        ("dlevel1 = 1/(2 - 2)" + BOTH, "/", "is inf, expected a finite number"),
        ("dlevel1 = log(-1)*k" + BOTH, "log", "is nan, expected a finite number"),
        ("level1(0) = level2; dlevel1 = 1" + BOTH, "level1(0)", r"level1\(0\) rests on level2"),
        ("level1(0) = a; a = t; dlevel1 = 1" + BOTH, "level1(0)", r"level1\(0\) rests on t"),
        ("level1(0) = net(k); dlevel1 = 1" + BOTH, "net", "cannot be a net"),
        ("x(0) = 1; dlevel1 = 1" + BOTH, "x(0)", "x is no state"),
    ],
)
def test_a_name_that_is_nobody_is_pointed_at(text, pointed, says):
    text = text.replace("dlevel1 = dlevel2;", "dlevel1 = dlevel2 ;")
    with pytest.raises(EquationError, match=says) as caught:
        System.of(text, **given())
    at = text.index(pointed)
    if pointed in ("dlevel1 = 2", "exp", "levle2"):
        at = text.rindex(pointed)
    assert caught.value.at == at


def test_a_derivative_of_what_is_no_state_is_not_taken_for_a_definition():
    with pytest.raises(EquationError, match="y is no state; there are x"):
        System.of("dx = -k*y; dy = x", states=["x"])


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ({"inputs": ["level1"]}, "level1: a state and an input"),
        ({"states": ["level1", "t"]}, "t is the time"),
        ({"covariates": ["a`b"]}, "expected a name without backticks"),
        ({"parameters": declared("pump = 1")}, "pump: an input and a parameter"),
        ({"parameters": declared("k = 1; q = 2")}, "parameter q: no equation uses it"),
        ({"parameters": declared("k = 1; kapa = 2")}, "kappa is not known; did you mean kapa"),
    ],
)
def test_names_given_apart_are_checked(roles, says):
    with pytest.raises(ValueError, match=says):
        System.of("dlevel1 = k*kappa; dlevel2 = 1", **given(**roles))
