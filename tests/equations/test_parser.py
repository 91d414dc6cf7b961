"""Equations in text: what is read, how it is written again, and what is said about what cannot be."""

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.equations.errors import EquationError, near
from isocline.equations.evaluate import folded
from isocline.equations.parser import parse, parse_expression
from isocline.equations.tree import Call, Name, Number, Operation, written

NAMES = ("x", "k", "level1", "body mass", "μ", "lambda", "d")


# ---- what is read -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "brackets"),
    [
        ("a + b*c", "a + (b*c)"),
        ("a - b - c", "(a - b) - c"),
        ("a/b*c", "(a/b)*c"),
        ("a^b^c", "a^(b^c)"),
        ("-a^2", "-(a^2)"),
        ("a^-2", "a^(-2)"),
        ("-a*b", "(-a)*b"),
        ("a**2", "a^2"),
        ("+a", "a"),
        ("2.5e-3*x", "(2.5e-3)*x"),
        ("where(a < b and not c > d or e == f, 1, 0)", "where(((a < b) and (not (c > d))) or (e == f), 1, 0)"),
        ("a ≤ b", "a <= b"),
        ("a·b − c", "(a*b) - c"),
    ],
)
def test_operators_bind_as_in_mathematics(text, brackets):
    assert parse_expression(text) == parse_expression(brackets)


def test_statements_end_at_line_ends_and_semicolons_but_not_within_brackets_or_behind_operators():
    text = "r = k*\n  x  # a comment; with a semicolon\n\ndx/dt = max(r,\n 1); dy = 2;\n`body mass` = 3; d`body mass` = 1; x(0) = 4"
    read = [(s.kind, s.name, written(s.expression)) for s in parse(text)]
    assert read == [
        ("plain", "r", "k*x"),
        ("rate", "x", "max(r, 1)"),
        ("plain", "dy", "2"),
        ("plain", "body mass", "3"),
        ("rate", "body mass", "1"),
        ("initial", "x", "4"),
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [("2^3 - 1", 7), ("exp(0)*pi", math.pi), ("min(3, 1, 2)", 1), ("-sqrt(16)/8", -0.5), ("log10(1000)", 3)],
)
def test_what_is_made_of_numbers_alone_is_computed_once(text, value):
    tree = folded(parse_expression(text))
    assert isinstance(tree, Number)
    assert tree.value == pytest.approx(value, rel=1e-15)


# ---- what cannot be ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "pointed", "says"),
    [
        ("dx = -k*", 8, "found the end, expected a number"),
        ("dx = 2x", 6, r"a product is 2\*x"),
        ("dx = 2 x", 7, "a product is written with"),
        ("dx = k(x)", 5, r"a product is written k\*\(…\)"),
        ("dx = sqrtt(x)", 5, "did you mean sqrt?"),
        ("dx = clip(x, 0, 1)", 5, r"write min\(max\(x, low\), high\)"),
        ("dx = (k*x", 9, r"expected '\)' for the '\(' at position 6"),
        ("dx = k*x)", 8, r"there is no '\(' for it"),
        ("dx = k = 3", 7, "compare with =="),
        ("dx = 1,5*x", 6, "a decimal point"),
        ("dx = 1.2.3", 8, "behind the number"),
        ("dx = 1e999", 5, "beyond the largest number"),
        ("dx = x²", 6, r"write \^2"),
        ("dx = 'a'", 5, "expected a number, a name"),
        ("dx = a < b", 7, "expected a number; write where"),
        ("dx = where(a, 1, 2)", 11, "expected a condition"),
        ("dx = where(a < b < c, 1, 2)", 17, "a second comparison"),
        ("dx = where(a < b, 1)", 5, "where of 2 arguments, expected 3"),
        ("dx = exp(a, b)", 5, "exp of 2 arguments, expected 1"),
        ("dx = max(a)", 5, "max of 1 arguments, expected two or more"),
        ("dx = net()", 5, "of nothing"),
        ("dx = net(x, widht=3)", 12, "did you mean width?"),
        ("dx = net(x, width=2.5)", 18, "expected a whole number"),
        ("dx = net(x, width=3, width=4)", 21, "given twice"),
        ("dx = net(width=3, x)", 18, "come last"),
        ("dx = exp(x, width=3)", 17, r"expected '\)'"),
        ("dx - 3", 3, "expected '='"),
        ("x(1) = 3", 2, "expected 0: the state at time 0"),
        ("x/dt = 3", 1, "a derivative is written"),
        ("3 = x", 0, "expected an equation such as"),
        ("", 0, "no equation in it"),
        ("  # nothing", 11, "no equation in it"),
        ("dx = `a", 5, "a backtick"),
        ("dx = a and b", 5, "expected a condition"),
        ("and = 3", 0, "expected an equation such as"),
        ("dx = " + "(" * 1000, 30, "brackets or signs within each other"),
        ("dx = " + "-" * 1000 + "1", 30, "brackets or signs within each other"),
        ("dx = " + "1+" * 1000 + "1", 304, "operations within each other"),
    ],
)
def test_what_cannot_be_is_pointed_at(text, pointed, says):
    with pytest.raises(EquationError, match=says) as caught:
        parse(text)
    assert caught.value.at == pointed


def test_the_message_shows_the_line_and_a_caret_under_the_character():
    with pytest.raises(EquationError) as caught:
        parse("dx = -k*x\ndy = k*(x - )  # growth\n")
    assert str(caught.value) == (
        "equation, line 2: found ')', expected a number, a name or '('\n  dy = k*(x - )  # growth\n              ^"
    )
    assert (caught.value.line, caught.value.column) == (2, 13)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_of_a_long_line_the_part_around_the_character_is_shown():
    text = "dx = " + " + ".join(f"k{i}*x" for i in range(60)) + " + $"
    with pytest.raises(EquationError) as caught:
        parse(text)
    _, line, caret = str(caught.value).split("\n")
    assert len(line) < 110
    assert line[caret.index("^")] == "$"


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("levle1", ["level1", "pump"], "level1"),
        ("Level1", ["level1"], "level1"),
        ("K", ["k"], None),
        ("k2", ["k1"], None),
    ],
)
def test_a_near_miss_is_told_from_another_name(name, known, meant):
    assert near(name, known) == meant


# ---- anything ---------------------------------------------------------------------------------------------------------
NUMBERS = st.floats(0, 1e300, allow_nan=False).map(Number)
LEAVES = st.one_of(NUMBERS, st.sampled_from(NAMES).map(Name))


SUMS = st.builds(Operation, st.sampled_from(["+", "-"]), st.tuples(LEAVES, LEAVES))
COMPARISONS = st.builds(Operation, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.tuples(LEAVES, SUMS))
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds(Operation, st.sampled_from(["and", "or"]), st.tuples(inner, inner)),
        st.builds(Operation, st.just("not"), st.tuples(inner)),
    ),
    max_leaves=3,
)


def larger(inner):
    return st.one_of(
        st.builds(Operation, st.sampled_from(["+", "-", "*", "/", "^"]), st.tuples(inner, inner)),
        st.builds(Operation, st.just("-"), st.tuples(inner)),
        st.builds(Call, st.sampled_from(["exp", "sqrt", "tanh"]), st.tuples(inner)),
        st.builds(Call, st.sampled_from(["min", "max"]), st.lists(inner, min_size=2, max_size=4).map(tuple)),
        st.builds(Call, st.just("where"), st.tuples(CONDITIONS, inner, inner)),
        st.builds(
            Call,
            st.just("net1"),
            st.lists(inner, min_size=1, max_size=3).map(tuple),
            st.sampled_from([(), (("width", 4.0),), (("width", 4.0), ("activation", "tanh"))]),
        ),
    )


@given(st.recursive(LEAVES, larger, max_leaves=10))
@settings(max_examples=200, deadline=None)
def test_what_is_written_reads_as_what_it_was(tree):
    assert parse_expression(written(tree)) == tree


@given(st.text(st.sampled_from(list("dxkt =+-*/^()<>,;.\n0123456789e`#[]&é²")) | st.characters(), max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_model_or_one_clear_message(text):
    try:
        statements = parse(text)
    except EquationError as error:
        assert str(error).count("\n") == 2 and "^" in str(error)
    else:
        for s in statements:
            assert parse_expression(written(s.expression)) == s.expression


WORDS = ["dx", "dy", "k", "t", "where", "exp", "net", "and", "not", "width", "2", "0.5", "\n", *"==+-*/^(),;<>"]


@given(st.lists(st.sampled_from(WORDS)))
@settings(max_examples=500, deadline=None)
def test_any_row_of_words_is_a_model_or_one_clear_message(words):
    test_any_text_is_a_model_or_one_clear_message.hypothesis.inner_test(" ".join(words))
