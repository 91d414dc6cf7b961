"""The checker of annotations sees wrong types and shapes where it looks, and looks at the first calls of every function."""

import dataclasses

import jaxtyping
import pytest
import torch
import typecheck
from jaxtyping import Float


def watched(fn):
    return typecheck.sparingly(fn, typechecker=typecheck.check)


@pytest.fixture
def refused():
    return pytest.raises(jaxtyping.TypeCheckError)


def double(x: Float[torch.Tensor, "n 2"]) -> Float[torch.Tensor, "n 2"]:
    return 2 * x if len(x) > 1 else x[0]


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(3, 2, dtype=torch.int64), 1.0, torch.ones(1, 2)])
def test_a_wrong_argument_or_result_is_refused(wrong, refused, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", False)
    checked = watched(double)
    assert checked(torch.ones(3, 2)).sum() == 12
    with refused:
        checked(wrong)


def test_the_fields_of_a_dataclass_are_checked(refused):
    @watched
    @dataclasses.dataclass
    class Pair:
        a: int

    assert Pair(1).a == 1
    with refused:
        Pair("1")


def test_the_first_calls_are_checked_and_later_ones_ever_more_rarely(monkeypatch):
    checks = []
    monkeypatch.setattr(typecheck, "FIRST", 3)
    look = lambda fn, typechecker: lambda x: checks.append(x) or fn(x)
    checked = typecheck.sparingly(lambda x: x, typechecker=None, wrap=look)
    assert [checked(i) for i in range(1, 40)] == list(range(1, 40)) and checks == [1, 2, 3, 4, 8, 16, 32]
