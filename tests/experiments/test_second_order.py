"""Oscillators, a few steps of training."""


def test_one_dimension_cannot_turn_and_the_second_order_model_does(quick):
    ours = quick("second-order")["ours"]
    # In one dimension a path is monotone; the best constant misses by the variance of the positions.
    assert ours["second order: test MSE of x, t ≤ 10"] < ours["plain: test MSE of x, t ≤ 10"]
