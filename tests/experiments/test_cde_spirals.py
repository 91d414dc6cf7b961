"""Diffrax's recipe, whole, and with most points dropped."""


def test_the_direction_is_learned_in_twenty_steps_and_from_a_third_of_the_points(quick):
    ours = quick("cde-spirals")["ours"]
    for where in ("diffrax's spirals", "diffrax's spirals, 70 % dropped"):
        # 256 spirals: guessing is right on 0.5 ± 0.03; a model that knows nothing has a loss of ln 2 = 0.69.
        assert ours[f"{where}: test accuracy"] > 0.9
        assert ours[f"{where}: test loss"] < 0.5
