"""The linear spiral: Euler's data hide a matrix of their own."""

import math

import torch

from isocline.experiments.linear_spiral import A, euler_matrix, expected


def test_the_matrix_of_eulers_points_has_their_flow():
    h, one = 0.04, torch.eye(2, dtype=torch.float64)
    assert torch.allclose(torch.matrix_exp(h * euler_matrix(h)), one + h * A, atol=1e-14)
    assert torch.allclose(one + h * expected("Dopri5", "Euler", h), torch.matrix_exp(h * A), atol=1e-14)


def test_each_solver_finds_the_matrix_it_needs_for_the_data(quick):
    record = quick("linear-spiral")
    bounds = {row["what"]: row["bound"] for row in record["rows"] if "bound" in row}
    crossed = "data of Euler, fitted with Dopri5: ||A_learned - A||"
    assert math.isclose(bounds[crossed], 0.0283, abs_tol=1e-4)  # √2 |(-0.0803 + 1.0034i) - (-0.1 + i)|
    # With 100 points of noise 0.01 on a radius of 0.2 to 0.6 the matrix is known to less than one in a hundred.
    assert len(bounds) == 4
    for what, bound in bounds.items():
        assert abs(record["ours"][what] - bound) < 0.015, what
