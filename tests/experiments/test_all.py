"""Every experiment can be found, says where it comes from, and has a test of its quick run."""

from pathlib import Path

import pytest

from isocline import experiments


@pytest.mark.parametrize("name", experiments.names())
def test_an_experiment_is_complete(name):
    experiment = experiments.find(name)
    assert len(experiment.title) < 80 and experiment.source
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    assert any(f'quick("{name}")' in text for text in tests), f"no test runs quick({name!r})"


def test_an_unknown_name_is_answered_with_the_names():
    with pytest.raises(ValueError, match="cubic-spiral"):
        experiments.find("cubic")
