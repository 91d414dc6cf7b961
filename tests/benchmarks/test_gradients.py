"""The table of gradients: exact methods err alike, continuous ones by no more than the tolerance allows."""

from test_benchmarks import run


def test_every_method_is_measured_and_near(tmp_path):
    for header, rows in run("gradients.py", tmp_path / "gradients.md"):
        assert header == ["gradient", "error", "calls of f", "cost", "peak"]
        error = {row[0].strip("`"): float(row[1]) for row in rows}
        assert set(error) >= {"backprop", "checkpointed", "forward", "backsolve", "gauss_adjoint", "interpolating"}
        assert error["backprop"] == error["checkpointed"] == error["forward"]
        assert all(value < 1e-3 for value in error.values())  # rtol = 1e-6 over a few times the length of a period
        backward = {row[0].strip("`"): int(row[2].split("+")[1]) for row in rows}
        assert backward["forward"] == backward["backprop"] == 0 < backward["interpolating"]
        assert all(float(row[3]) > 0 and float(row[4]) > 0 for row in rows)
