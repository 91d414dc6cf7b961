"""The bouncing ball."""


def test_collision_times_and_all_their_derivatives_are_exact(quick):
    ours = quick("bouncing-ball")["ours"]
    errors = {what: value for what, value in ours.items() if "largest error" in what}
    assert len(errors) == 6
    # The source asks 1e-4 of finite differences. The paths are parabolas, which the solver has to rounding; the events
    # are located to a few spacings of time.
    assert max(errors.values()) < 1e-9, errors
    assert abs(ours["dT10/d init_pos"] - 0.5719093) < 1e-6
    assert abs(ours["dT10/d log_radius"] + 0.1143819) < 1e-6
    assert abs(ours["dT10/d init_vel"] - 1 / 9.8) < 1e-9
