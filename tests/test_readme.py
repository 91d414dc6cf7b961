"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[1]
LYNX = ROOT / "src/isocline/data/lynx_hare.csv"
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_python_of_the_readme_runs(capsys):
    torch.manual_seed(0)
    names = {"y0": torch.randn(4, 2), "ts": torch.linspace(0, 1, 6), "observed": torch.randn(6, 4, 2)}
    blocks = [block for block in BLOCKS if "isocline.fit" not in block]
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2 and names["k"].grad is not None
    assert "this gradient agrees" in capsys.readouterr().out


@pytest.mark.slow  # two fits as they come
def test_the_fits_of_the_readme_run():
    frame = pd.read_csv(LYNX)
    names = {"frame": frame, "years": [1936.0, 1940.5]}
    (block,) = [block for block in BLOCKS if "isocline.fit" in block]
    exec(block, names)
    assert names["result"].predict(until=1940, bands=True).shape == (5, 11)


def test_a_wrong_shape_is_caught_in_the_tests():
    """The annotations are really checked: a parameter of another shape than its neighbours' is refused."""
    import jaxtyping

    from isocline.gradients.times import attach_start

    with pytest.raises(jaxtyping.TypeCheckError):
        attach_start(None, torch.zeros(3), torch.zeros(4, 2))
