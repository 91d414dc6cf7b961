"""The claims, on small fields."""

import torch

from isocline.experiments.claims import ORDERS, Pulled, both_ways, slope


def test_the_adjoint_does_not_grow_and_is_off_by_the_order_of_the_solver(quick):
    ours = quick("claims")["ours"]
    state = 2 * 8 * 36 * 4 / 1e6  # MB, of two images
    direct = ours["backprop: memory for one more evaluation"]
    # The graph of an evaluation holds several states; a checkpoint is one state for the six evaluations of a step.
    assert direct > 2 * state
    assert ours["checkpointed: memory for one more evaluation"] < state
    # The adjoint's peak is one of two: with a rejected step at that time or without. The two states [y, a, a_θ] between them
    # are a seventh of the graphs of the twelve evaluations between the tolerances.
    assert abs(ours["adjoint: memory for one more evaluation"]) < direct / 5
    # Central differences with h = 1e-5 in double precision: h² beside eps / h.
    assert ours["backprop: distance from differences of the computed loss"] < 1e-8
    for solver, order in ORDERS.items():
        found = ours[f"{solver}: order of the adjoint's error"]
        assert found > order - 0.2 and (solver == "heun" or found < order + 0.2)
    # Where a ReLU switches the way back jumps, and takes small steps there.
    kinks, smooth = (ours[f"convolutions, {name}: backward to forward"] for name in ("ReLU", "softplus"))
    assert smooth < kinks


def test_a_gradient_that_is_garbage_is_refused():
    torch.manual_seed(0)
    loose = both_ways(Pulled(12.0), torch.randn(8, 2, dtype=torch.float64), 2.0, quick=True)[0]
    assert loose["off"] > 0.5 and loose["reconstruction"] > 1.0 and loose["refused"]


def test_the_slope_is_that_of_a_line():
    assert abs(slope([[1.0, 5.0], [2.0, 7.0], [5.0, 13.0]]) - 2.0) < 1e-12
