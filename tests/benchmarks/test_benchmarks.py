"""The benchmarks run and write tables that can be read. What is counted is asserted; what is timed is not."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def tables(page):
    """Every Markdown table of a page as (header, rows)."""
    found, block = [], []
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in line.strip("|").split("|")])
        elif block:
            header, rule, *rows = block
            assert set("".join(rule)) == {"-"}
            assert rows and all(len(row) == len(header) for row in rows)
            found.append((header, rows))
            block = []
    return found


def run(script, out):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, "--quick", "--out", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tables(out.read_text())


def numbers(row):
    return [float(cell) for cell in row if cell.replace(".", "", 1).replace("e-", "", 1).lstrip("-").isdigit()]


def test_overhead_writes_its_tables(tmp_path):
    per_step, counts, gradients, adjoint, seminorm = run("overhead.py", tmp_path / "overhead.md")
    for _, rows in (per_step, counts, gradients, adjoint, seminorm):
        assert all(len(numbers(row)) >= 4 and all(map(math.isfinite, numbers(row))) for row in rows)
    header, rows = counts
    waits = {(row[0], row[2]): float(row[header.index("waits a step")]) for row in rows}
    # One a step and a handful for the whole solve, which has some twenty steps at least.
    assert all(value < 1.5 for (_, solver), value in waits.items() if solver == "shared")
    header, rows = gradients
    column = [header.index(name) for name in ("error of y", "error of gradient")]
    for i, row in enumerate(rows):
        peer = rows[i - i % 3]  # torchdiffeq, then ours with two solvers
        assert all(float(row[c]) <= float(peer[c]) for c in column)


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    return run("memory.py", tmp_path_factory.mktemp("memory") / "memory.md")


def test_memory_of_every_way_back_grows_as_it_should(memory):
    header, rows = memory[0]
    peak = {row[0]: numbers(row)[:-1] for row in rows}
    slope = {row[0]: float(row[header.index("per step")]) for row in rows}
    state = 4.0  # KiB
    assert slope["Backsolve"] == 0
    assert slope["Checkpointed, graphs = 0"] == pytest.approx(state, rel=0.01)
    # What ten steps need without a budget of ten states is what any number of steps needs with it.
    assert max(peak["Checkpointed, 10 states"]) <= peak["Checkpointed, graphs = 0"][0] + 2 * state
    assert slope["Backprop"] > 10 * state


def test_a_budget_is_kept(memory):
    header, rows = memory[1]
    (budget,) = [row for row in rows if row[0] == "Checkpointed, 10 states"]
    # The end state and its square on top.
    assert max(numbers(budget)) <= (10 + 2) * 4.0
    assert header[0] == "way back"


def test_peers_are_compared_at_equal_error(tmp_path):
    for name in ("diffrax", "torchode", "torchdyn.numerics"):
        pytest.importorskip(name)
    summary, forward, both, stiff = run("peers.py", tmp_path / "peers.md")
    packages = {"torchdiffeq", "torchode", "torchdyn", "diffrax", "isocline"}
    for header, rows in (forward, both):
        assert {row[2].split()[0] for row in rows} == packages
        for column in (i for i, name in enumerate(header) if name.startswith("error")):
            errors = [float(row[column]) for row in rows if row[3] != "not reached"]
            assert errors[0] == max(errors)  # torchdiffeq's, which the others had to reach
    assert [row[2] for row in summary[1]] == ["forward", "both"]
    header, rows = stiff
    error = header.index("error of y")
    assert all(float(row[error]) <= float(rows[0][error]) for row in rows)


def test_what_is_not_installed_is_said_in_one_line_with_the_way_to_install_it(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers

    monkeypatch.setattr(peers, "present", lambda name: True)
    assert peers.missing() == ""
    monkeypatch.setattr(peers, "present", lambda name: name == "torchdiffeq")
    line = peers.missing()
    assert line.count("\n") == 1 and "left out: torchode, torchdyn, diffrax." in line
    assert line.count("-m pip install -c constraints.txt -e '.[bench]'") == 1 and "--no-deps torchdyn" in line


def test_the_fused_engine_is_measured_row_by_row_and_the_table_is_made_of_all(tmp_path):
    """Without diffrax, whose compiling takes minutes."""
    out = tmp_path / "fused.md"
    for row in ("2-50-2, batch 1", "2-50-2, batch 20"):
        command = [
            sys.executable,
            BENCHMARKS / "fused.py",
            "--quick",
            "--out",
            out,
            "--rows",
            row,
            "--without",
            "diffrax",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (header, summary), *details = tables(out.read_text())
    assert [row[:2] for row in summary] == [
        [f"2-50-2, batch {batch}", work] for batch in (1, 20) for work in ("forward", "forward + backward")
    ]
    assert all(float(row[header.index("torchdiffeq")]) > 1 for row in summary)
    for header, rows in details:
        errors = [header.index(name) for name in ("error of y", "error of gradient")]
        assert all(float(row[i]) < 1e-4 for row in rows for i in errors if row[i] != "—")


@pytest.mark.parametrize("name", ["overhead.md", "memory.md", "peers.md"])
def test_a_committed_table_names_the_command_that_made_it(name):
    page = (BENCHMARKS / name).read_text()
    script = name.replace(".md", ".py")
    assert f"`python benchmarks/{script}`" in page
    assert len(tables(page)) >= 3


def test_gpu_runs_on_any_device():
    command = [sys.executable, BENCHMARKS / "gpu.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()]
    assert {row[2] for row in rows} >= {"isocline", "isocline per sample", "torchdiffeq"}
    assert all(float(row[3]) > 0 and (row[2] == "diffrax" or float(row[5]) < 1e-2) for row in rows)
