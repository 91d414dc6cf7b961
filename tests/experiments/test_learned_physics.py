"""Learned physics, a tenth of the training."""


def test_events_are_learned_and_carry_beyond_the_data(quick):
    ours = quick("learned-physics")["ours"]
    # A ball that lies on the floor for the last 4 s would miss by the mean height there, 1.2 m.
    assert ours["with events: mean error in the next 4 s"] < 1.2
    assert ours["with events: mean error in the next 4 s"] < ours["without: mean error in the next 4 s"]
