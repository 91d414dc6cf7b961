"""Sparse equations for what a run has learned: the true terms come back, and go on into a fit."""

import shlex
from itertools import pairwise

import numpy as np
import pytest
import torch

from isocline import solve
from isocline.cli import main
from isocline.equations import Equations
from isocline.fit import UserError, fit, sindy, sparse_equations
from isocline.fit.sparse import _candidates, _Piece

needs = pytest.mark.skipif(not sindy.installed(), reason="PySINDy is not installed")
QUICK = {"hidden": (16,), "matching": 300, "iterations": 15, "polish": 40, "starts": 1, "members": 0, "blocks": 0}
QUICK |= {"penalty": (1e-4,)}
TRUE = "dhare = 1.1*hare - 0.4*hare*lynx; dlynx = 0.1*hare*lynx - 0.4*lynx"


def lotka_volterra(folder):
    """A table with one per cent noise."""
    t = torch.linspace(0, 25, 101, dtype=torch.float64)
    y = solve(Equations(TRUE), torch.tensor([10.0, 5.0], dtype=torch.float64), t, rtol=1e-8, atol=1e-8).ys.numpy()
    y = y * (1 + 0.01 * np.random.default_rng(0).standard_normal(y.shape))
    rows = [f"{a:.2f},{h:.5f},{n:.5f}" for a, (h, n) in zip(t.tolist(), y, strict=True)]
    (folder / "lv.csv").write_text("\n".join(["day [d],hare,lynx", *rows]) + "\n")
    return folder / "lv.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return lotka_volterra(tmp_path_factory.mktemp("sparse"))


def numbers(equations):
    """By state: coefficients by monomial, read from what the equations give at a few points."""
    x = torch.tensor(np.random.default_rng(1).uniform(0.5, 3, (60, 2)))
    powers = [(i, j) for i in range(4) for j in range(4 - i)]
    design = torch.stack([x[:, 0] ** i * x[:, 1] ** j for i, j in powers], 1)
    found = torch.linalg.lstsq(design, equations(torch.tensor(0.0), x).detach()).solution
    return [{p: float(c) for p, c in zip(powers, column, strict=True) if abs(c) > 1e-6} for column in found.T]


# ---- with PySINDy -----------------------------------------------------------------------------------------------------
@needs
def test_the_true_terms_are_among_what_thresholds_leave_and_are_written_with_parameters():
    frame = Equations("da = net_0(a, b); db = net_1(a, b)", states=("a", "b"))
    x = np.random.default_rng(0).uniform([1.0, 0.002], [300.0, 0.06], (200, 2))  # in units as they come
    rates = np.stack([2 * x[:, 0] - 90 * x[:, 0] * x[:, 1], 0.004 * x[:, 0] * x[:, 1] - 0.7 * x[:, 1]], 1)
    calls = list(frame.system.rates.values())
    pieces = [_Piece(n, calls[i], x, rates[:, i], 1 / x[:, i]) for i, n in enumerate("ab")]
    sparse = [c for c in _candidates(pieces, 3) if c.terms == 4 and c.highest == 2]
    texts = [c.put(frame, pieces).text(values=True) for c in sparse]
    assert "da/dt = 2*a - 90*a*b\ndb/dt = -0.7*b + 0.004*a*b" in texts
    assert "da/dt = k1*a - k2*a*b" in sparse[0].put(frame, pieces).text()
    assert [
        piece.explained(c, p) for piece, c, p in zip(pieces, sparse[0].coefficients, sparse[0].powers, strict=True)
    ] == [1.0, 1.0]


@needs
@pytest.mark.slow
def test_the_terms_of_lotka_and_volterra_come_back_with_their_numbers(table, tmp_path, capsys, monkeypatch):
    run = fit(table, out=tmp_path / "run", **QUICK)
    assert "PySINDy model" in [row["model"] for row in run["scores"]]
    found = sparse_equations(tmp_path / "run")
    hare, lynx = numbers(Equations(str(found)))
    assert set(hare) == {(1, 0), (1, 1)} and set(lynx) == {(0, 1), (1, 1)}
    assert [hare[1, 0], hare[1, 1], lynx[0, 1], lynx[1, 1]] == pytest.approx([1.1, -0.4, -0.4, 0.1], rel=0.05)
    assert found.terms == 4 and found.degree == 2 and found.good and min(found.r2.values()) > 0.95
    assert found.held_out[0] < 0.1
    monkeypatch.setattr("isocline.cli.equations.sparse_equations", lambda run, degree: found)
    with pytest.raises(SystemExit) as ended:
        main(["equations", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert str(found) in out and "4 terms" in out and "NRMSE" in out
    # The line that is printed fits the equations to the table.
    command = shlex.split(out.strip().splitlines()[-1])
    assert command == shlex.split(found.command) and command[:2] == ["isocline", "fit"]
    given = {name: [v for k, v in pairwise(command) if k == f"--{name}"] for name in ("equation", "parameter", "state")}
    again = fit(
        command[2], equations=given["equation"], parameters=given["parameter"], states=given["state"], matching=20,
        iterations=3, polish=10, starts=1, members=0, blocks=0,
    )  # fmt: skip
    values = {row["name"]: row["value"] for row in again["parameters"]["rows"]}
    assert sorted(values.values()) == pytest.approx([0.1, 0.4, 0.4, 1.1], rel=0.02)


@needs
@pytest.mark.slow
def test_a_network_in_equations_is_replaced_by_what_it_has_learned(table, tmp_path):
    equations = ("dhare = a*hare - net(hare, lynx, width=8)", "dlynx = 0.1*hare*lynx - m*lynx")
    settings = {k: v for k, v in QUICK.items() if k != "hidden"}
    fit(table, out=tmp_path / "run", equations=equations, parameters=("a = 1.1 fixed", "m = 0.4"), **settings)
    found = sparse_equations(tmp_path / "run", degree=2)
    hare, lynx = numbers(found.equations)
    assert set(hare) == {(1, 0), (1, 1)} and set(lynx) == {(0, 1), (1, 1)}
    assert hare[1, 1] == pytest.approx(-0.4, rel=0.1) and found.r2["net"] > 0.9
    assert found.equations.values["a"] == 1.1 and found.terms == 1


@needs
def test_nothing_to_be_found_is_told(tmp_path):
    t = 0.3 * np.arange(12)
    own = {"matching": 2, "iterations": 1, "polish": 0, "starts": 1, "members": 0, "blocks": 0, "hold_out": 0.0}
    fit({"t": t, "x": np.exp(-0.1 * t)}, out=tmp_path / "given", equations=("dx = -k*x",), **own)
    with pytest.raises(UserError, match="without a network"):
        sparse_equations(tmp_path / "given")
    with pytest.raises(UserError, match="from 1 to 5"):
        sparse_equations(tmp_path / "given", degree=9)


# ---- without ----------------------------------------------------------------------------------------------------------
def test_without_pysindy_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sindy, "installed", lambda: False)
    t = 0.3 * np.arange(30)
    own = {"hidden": (4,), "matching": 5, "iterations": 1, "polish": 0, "starts": 1, "members": 0, "blocks": 0}
    fit({"t": t, "x": np.exp(-0.1 * t)}, out=tmp_path / "run", **own)
    with pytest.raises(SystemExit) as ended:
        main(["equations", str(tmp_path / "run")])
    assert ended.value.code == 2 and "pip install 'isocline[sparse]'" in capsys.readouterr().err
