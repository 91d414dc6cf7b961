"""The race beside torchdiffeq: that it runs and that both do the same work, not who is faster."""

import pytest

from isocline.experiments import cubic_timing


def test_both_libraries_train_alike_at_their_tight_tolerances(quick):
    ours = quick("cubic-timing")["ours"]
    losses = [ours[f"{name}: loss"] for name in cubic_timing.contestants()]
    assert len(losses) == 4
    # Float32 sums of 60 squares and twenty Adam steps: alike to a few parts in a thousand.
    assert losses == pytest.approx([losses[0]] * 4, rel=0.02)
