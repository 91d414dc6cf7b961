"""Parameters declared in text: bounds, starts, units; and the change of variable that keeps the bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.equations.errors import EquationError
from isocline.equations.parameters import Parameter, declared


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("k", Parameter("k")),
        ("k = 0.3", Parameter("k", 0.3)),
        ("k = -2e-3", Parameter("k", -0.002)),
        ("k = 0.3 in [0, 5] unit 1/h", Parameter("k", 0.3, 0.0, 5.0, "1/h")),
        ("k in [2, 4]", Parameter("k", None, 2.0, 4.0)),
        ("k in [0, inf]", Parameter("k", None, 0.0)),
        ("k in [-inf, -1]", Parameter("k", None, -math.inf, -1.0)),
        ("k > 0", Parameter("k", low=0.0)),
        ("k > 0 < 3", Parameter("k", None, 0.0, 3.0)),
        ("g = 9.81 fixed unit m/s²", Parameter("g", 9.81, unit="m/s²", fixed=True)),
        ("`k on` = 2 unit % of unit weight", Parameter("k on", 2.0, unit="% of unit weight")),
        ("unit = 2", Parameter("unit", 2.0)),
    ],
)
def test_a_declaration_says_start_bounds_and_unit(text, parameter):
    assert Parameter.read(text) == parameter
    assert Parameter.read(str(parameter)) == parameter


@pytest.mark.parametrize(
    ("text", "begin"),
    [("k", 1), ("k in [2, 4]", 3), ("k > 2", 3), ("k in [-inf, -1]", -2), ("k > 0 < 3", 1.5), ("k = 7", 7)],
)
def test_a_start_that_is_not_said_lies_between_the_bounds(text, begin):
    assert Parameter.read(text).begin == begin


@pytest.mark.parametrize(
    ("text", "pointed", "says"),
    [
        ("k = ", 4, "expected a number"),
        ("k = 3 in [0, 2]", 0, "starts at 3, expected a number between its bounds 0 and 2"),
        ("k in [2, 0]", 0, "expected the lower one first"),
        ("k in 0, 5", 5, r"expected bounds such as \[0, 5\]"),
        ("k in [0 5]", 8, "expected ','"),
        ("k in [0, 5", 10, r"expected '\]'"),
        ("k unit", 6, "behind unit"),
        ("3", 0, "expected a declaration"),
        ("k = 3 on", 6, "expected = 0.3"),
        ("k = 1 = 2", 6, "expected = 0.3"),
        ("k = inf", 0, "expected a finite number"),
    ],
)
def test_what_cannot_be_declared_is_pointed_at(text, pointed, says):
    with pytest.raises(EquationError, match=says) as caught:
        Parameter.read(text)
    assert caught.value.at == pointed
    assert str(caught.value).startswith("parameter: ")


def test_declarations_come_in_any_form_and_once(unchecked):
    assert [p.name for p in declared("a = 1; b > 0\n\nc  # the last")] == ["a", "b", "c"]
    assert [p.name for p in declared(["a = 1", Parameter("b")])] == ["a", "b"]
    with pytest.raises(ValueError, match="parameter a: declared 2 times"):
        declared(["a", "a = 2"])
    with pytest.raises(TypeError, match="expected declarations such as"):
        declared([3])


BOUNDS = [(-math.inf, math.inf), (0.0, math.inf), (2.0, math.inf), (-math.inf, -1.0), (0.0, 5.0), (-3.0, 3.0)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_the_change_of_variable_keeps_the_bounds_and_its_slope_is_right(low, high):
    p = Parameter("k", low=low, high=high)
    raw = torch.linspace(-12, 12, 25, dtype=torch.float64, requires_grad=True)
    value = p.natural(raw)
    assert bool(((value > low) & (value < high)).all())
    (slope,) = torch.autograd.grad(value.sum(), raw)
    torch.testing.assert_close(torch.as_tensor(p.slope(raw), dtype=raw.dtype).expand_as(raw), slope)
    for x in raw[5:20].tolist():
        assert p.raw(p.value(x)) == pytest.approx(x, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "value", "bound"),
    [(0, 5, 1e-6, 0), (0, 5, 4.999, 5), (0, 5, 0.1, None), (0, math.inf, 1e-9, 0), (0, math.inf, 0.01, None)],
)
def test_a_value_that_came_to_a_bound_is_known(low, high, value, bound):
    assert Parameter("k", low=low, high=high).bound(value) == bound


@given(st.text(st.sampled_from(list("kunitfxed =<>[],;.-0123456789 in\n")) | st.characters(), max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_declaration_or_one_clear_message(text):
    try:
        p = Parameter.read(text)
    except EquationError as error:
        assert str(error).count("\n") == 2
    else:
        assert Parameter.read(str(p)) == p
