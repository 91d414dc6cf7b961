"""Hamiltonian networks, a few hundred steps."""


def test_learning_an_energy_keeps_it(quick):
    ours = quick("hamiltonian")["ours"]
    for system in ("spring", "pendulum"):
        # What is left of the error is the noise on the inputs, which the derivative of an H has too.
        assert ours[f"{system} HNN: test MSE"] < 2 * ours[f"{system}: test MSE of the true field"]
        # Along its own H the solution of an HNN stays on a closed curve; the baseline's drifts for 20 time units.
        assert ours[f"{system} HNN: energy MSE"] < ours[f"{system} baseline: energy MSE"]
