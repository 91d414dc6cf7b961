"""Augmented neural ODEs, short trainings."""


def test_points_of_a_line_cannot_pass_each_other_and_with_one_more_dimension_can(quick):
    ours = quick("augmented-odes")["ours"]
    assert ours["crossing, NODE: MSE"] >= 1.0 - 1e-9  # the order is kept: no training gets below
    assert ours["crossing, ANODE, p = 1: MSE"] < 0.5
    # A short training; two thirds of the points are of one class.
    assert ours["annulus, ANODE, p = 1: accuracy"] > 67
