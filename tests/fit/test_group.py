"""Processes that fit together: their shares add up to the whole, and to the same model as that of one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from series import csv_of, rotation, table_of

from isocline.fit import Config, UserError
from isocline.fit.group import Group, LostError, Several
from isocline.fit.recipe import Recipe
from isocline.fit.scale import Scales

QUICK = Path(__file__).parents[1] / "cli" / "quick.json"
SETTINGS = {"hidden": (6,), "matching": 20, "iterations": 2, "polish": 4, "starts": 1, "members": 3, "blocks": 2}


class Thread(Group):
    """One of several threads that stand for processes."""

    def __init__(self, rank, box):
        self.rank, self.size, self.box = rank, len(box["parts"]), box

    def exchanged(self, value):
        self.box["parts"][self.rank] = value
        self.box["barrier"].wait()
        parts = list(self.box["parts"])
        self.box["barrier"].wait()
        return parts

    def summed(self, *parts):
        return tuple(sum(own[1:], own[0].clone()) for own in zip(*self.exchanged(parts), strict=True))

    def any(self, flag):
        return any(self.exchanged(flag))

    def told(self, value):
        return self.exchanged(value() if self.leads else None)[0]


def together(size, make, act):
    """What `act` finds in each of some threads, with what `make` gives it for its group."""
    box = {"parts": [None] * size, "barrier": threading.Barrier(size, timeout=60)}
    found = [None] * size

    def work(rank):
        torch.set_num_threads(1)
        try:
            found[rank] = act(make(Thread(rank, box)))
        except BaseException as error:
            found[rank] = error
            box["barrier"].abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [one for one in found if isinstance(one, BaseException)]
    for error in sorted(errors, key=lambda one: isinstance(one, threading.BrokenBarrierError)):  # what broke it, first
        raise error
    return found


def uneven():
    """Two series of unlike lengths and steps, with a gap and empty cells."""
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.uniform(0.2, 0.5, 40))
    a, b = rotation(t), rotation(t[:23], phase=1.0)
    a[rng.random(a.shape) < 0.1] = np.nan
    return table_of((t, a + 0.02 * rng.standard_normal(a.shape)), (t[:23], b))


def recipe_of(group, folder=None, **settings):
    table = uneven()
    scales = Scales.of(table, table.series, "linear")
    return Recipe(Config.make(**{**SETTINGS, **settings}), table.series, scales, folder, group)


def run(recipe):
    assert recipe.run(lambda r: None) == "done"
    return recipe


def close(a, b):
    # Sums in another order: they part by the digits of a number, times what L-BFGS makes of it in a few steps.
    return torch.allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.fixture(scope="module")
def alone():
    return run(recipe_of(Group()))


def test_several_find_the_model_of_one(alone):
    first, second = together(2, recipe_of, run)
    assert torch.equal(first.trainer.theta, second.trainer.theta)  # each the same bits
    assert close(first.trainer.theta, alone.trainer.theta)
    assert first.choice.penalty == alone.choice.penalty
    assert np.allclose(first.choice.errors, alone.choice.errors, rtol=1e-6)
    assert first.trainer.best == alone.trainer.best


@pytest.mark.parametrize("noise", ["learned", "smoothed"])
def test_shares_add_up_also_where_some_have_none(noise):
    def value(recipe):
        trainer = recipe.trainer
        windows = trainer.batch.windows(trainer.batch.levels - 1)
        members = torch.tensor([1, 3])  # two windows each, or three
        return (
            *trainer.objective.value(trainer.theta[members], members, windows),
            *trainer.slopes.value(trainer.objective.network(trainer.theta)),
        )

    settings = {"noise": noise, "blocks": 0}
    want = value(recipe_of(Group(), **settings))
    for size in (2, 9):
        for found in together(size, lambda group: recipe_of(group, **settings), value):
            assert all(torch.allclose(f, w, rtol=1e-10, atol=1e-12) for f, w in zip(found, want, strict=True))


@pytest.mark.parametrize(("count", "phase"), [(40, "leaving out"), (60, "fitting")])
def test_one_goes_on_with_what_several_have_kept(tmp_path, alone, count, phase):
    def part(recipe):
        steps = iter(range(count))
        assert recipe.run(lambda r: None, lambda: next(steps, None) is None) == "interrupted"

    folders = [tmp_path / "run", tmp_path / "nowhere"]  # only the first writes: the second's is not even there
    folders[0].mkdir()
    together(2, lambda group: recipe_of(group, folders[group.rank]), part)
    assert not folders[1].exists()
    recipe = recipe_of(Group(), tmp_path / "run")
    recipe.load()
    assert recipe.phase == phase and recipe.choice is not None  # what was chosen is kept
    assert close(run(recipe).trainer.theta, alone.trainer.theta)


def test_a_folder_that_a_process_does_not_see_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    recipe_of(Group(), tmp_path / "run", blocks=0, members=0).save(0.0)
    folders = [tmp_path / "run", tmp_path / "nowhere"]
    with pytest.raises(UserError, match=r"nowhere.*the first of 2 processes has it"):
        together(2, lambda group: recipe_of(group, folders[group.rank], blocks=0, members=0), lambda r: r.load())


# ---- what torchrun starts ---------------------------------------------------------------------------------------------
needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch.distributed with gloo"
)


@pytest.fixture
def several(monkeypatch):
    """The one process of a group of one, which talks to itself as it would to others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0, "WORLD_SIZE": 1}.items():
        monkeypatch.setenv(name, str(value))
    group = Several()
    yield group
    group.leave()


@needs_gloo
def test_what_a_process_is_told_by_the_group(several):
    assert (several.rank, several.size, several.leads) == (0, 1, True)
    a, b = torch.ones(2, 3, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64)
    assert all(torch.equal(x, y) for x, y in zip(several.summed(a, b), (a, b), strict=True))
    assert several.any(True) and not several.any(False)
    assert several.told(lambda: {"penalty": 0.1}) == {"penalty": 0.1}
    several.agree("the table", "0a1b")
    assert [several.speaks(), several.speaks()] == [True, False]  # one message, whoever is first


@needs_gloo
def test_another_table_or_machine_is_refused_and_a_lost_process_told(several, monkeypatch):
    def gathered(values, own):
        values[:] = [own, "0c2d"]

    monkeypatch.setattr(dist, "all_gather_object", gathered)
    with pytest.raises(UserError, match="the table of process 1 is '0a1b', that of another '0c2d'; expected the same"):
        several.agree("the table", "0a1b")

    def broken(whole):
        raise RuntimeError(
            "[/build/gloo/tcp/pair.cc:537] Read error [127.0.0.1]:5: Connection reset by peer. This is typical"
        )

    monkeypatch.setattr(dist, "all_reduce", broken)
    with pytest.raises(LostError, match=r"\(Read error \[127.0.0.1\]:5: Connection reset by peer\)"):
        several.any(False)


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = Group.of_environment()
    assert (group.size, group.share(7), group.leads) == (1, slice(0, 7), True)


@pytest.fixture
def table(tmp_path):
    t = np.arange(60) * 0.25
    path = tmp_path / "table.csv"
    path.write_text(csv_of(t, rotation(t) + 0.02 * np.random.default_rng(0).standard_normal((60, 2))))
    return path


def command(processes, *tokens):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, *start, "-m", "isocline", "fit", *map(str, tokens)]


def called(processes, *tokens):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(processes, *tokens), capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_gloo
@pytest.mark.slow
def test_two_processes_leave_the_run_of_one(table, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    called(1, table, "--out", one, "--config", QUICK)
    out = called(2, table, "--out", two, "--config", QUICK)
    assert out.count("report:") == 1 and out.count("fitting the record: gradient matching") == 1
    a, b = (load_file(run / "model.safetensors") for run in (one, two))
    assert all(torch.allclose(a[k], b[k], rtol=1e-6, atol=1e-8) for k in a)
    first, second = (json.loads((run / "report.json").read_text())["scores"][0]["nrmse"] for run in (one, two))
    assert second == pytest.approx(first, rel=1e-5)


@needs_gloo
@pytest.mark.slow
def test_where_one_is_lost_the_others_end_and_the_run_goes_on(table, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(2, table, "--out", run, "--config", QUICK, "--iterations", 200000),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 240
    while not (run / "checkpoint.pt").exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()[1]
        time.sleep(0.05)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    os.kill(children[-1], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - began < 60 and process.returncode != 0  # seconds; machines are busy
    assert err.count("isocline: one of 2 processes was lost") == 1
    assert f"--resume {run}" in err
    kept = json.loads((run / "config.json").read_text())
    kept["config"]["iterations"] = 1
    (run / "config.json").write_text(json.dumps(kept))
    called(2, "--resume", run)
    assert json.loads((run / "report.json").read_text())["stopped"] == "done"
