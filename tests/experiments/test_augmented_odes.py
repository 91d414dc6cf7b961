"""Augmented neural ODEs, short trainings."""


def test_points_of_a_line_cannot_pass_each_other_and_with_one_more_dimension_can(quick):
    ours = quick("augmented-odes")["ours"]
    assert ours["crossing, NODE: MSE"] >= 1.0 - 1e-9  # the order is kept: no training gets below
    assert ours["crossing, ANODE, p = 1: MSE"] < 0.5
    # A homeomorphism of the plane leaves the disc inside the ring, so that no line parts them.
    assert ours["annulus, ANODE, p = 1: smooth L1"] < ours["annulus, NODE: smooth L1"]
    assert ours["annulus, ANODE, p = 1: accuracy"] > 200 / 3  # what always the larger class would score
