"""Figure 3 on a network of 30 iterations."""


def test_errors_follow_the_tolerance_and_both_counts_are_there(quick):
    ours = quick("ode-net-solver")["ours"]
    errors = [ours[f"numerical error at 1e-0{k}"] for k in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    # The error of a step is held to the tolerance: ten steps, and a field that may carry each ten times further.
    assert errors[-1] < 100 * 1e-4
    # Seconds of a busy machine say no more than this.
    assert ours["correlation of time with evaluations forward"] > 0.0
    forward = ours["evaluations forward at 1e-3"]
    same, loose = (ours[f"evaluations backward at 1e-3: adjoint, {x}"] for x in ("same tolerance", "100 times looser"))
    assert loose < same and ours["backward to forward, same tolerance"] == same / forward
    # A replay repeats the accepted steps, never more than was done.
    assert ours["evaluations backward at 1e-3: exact, replayed"] <= forward
