"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import torch

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


def test_the_python_of_the_readme_runs(capsys):
    torch.manual_seed(0)
    names = {"y0": torch.randn(4, 2), "ts": torch.linspace(0, 1, 6), "observed": torch.randn(6, 4, 2)}
    for block in BLOCKS:
        exec(block, names)
    assert len(BLOCKS) == 2 and names["k"].grad is not None
    assert "this gradient agrees" in capsys.readouterr().out


def test_a_wrong_shape_is_caught_in_the_tests():
    """The annotations are really checked: a parameter of another shape than its neighbours' is refused."""
    import jaxtyping
    import pytest

    from isocline.gradients.times import attach_start

    with pytest.raises(jaxtyping.TypeCheckError):
        attach_start(None, torch.zeros(3), torch.zeros(4, 2))
