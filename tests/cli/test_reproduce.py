"""`isocline reproduce`: the list, bad input, and a run that is broken off and goes on."""

import json
import os
import subprocess
import sys

import pytest

from isocline import experiments
from isocline.cli import main
from isocline.experiments.lab import Experiment, Row
from isocline.fit import UserError

CODE = "from isocline.cli import main; main()"
# Ctrl-C as it reaches a process, in the fiftieth iteration however fast the machine is.
INTERRUPTS_ITSELF = """
import os, signal
from isocline.cli import main, reproduce

stopped, calls = reproduce.Screen.stopped, []

def interrupted(self):
    calls.append(0)
    if len(calls) == 50:
        os.kill(os.getpid(), signal.SIGINT)
    return stopped(self)

reproduce.Screen.stopped = interrupted
main()
"""


def test_without_a_name_it_lists_the_experiments(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "cubic-spiral" in said and "isocline reproduce NAME" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cubic"], "no experiment 'cubic'; there are"),
        (["spiral", "--data", "nowhere"], "--data nowhere: expected a folder"),
        (["spiral", "--threads", "0"], "--threads 0: expected 1 or more"),
        (["mnist", "--device", "nothing"], "--device nothing: not there"),
        (["spiral", "--device", "meta"], "--device meta: spiral runs on the processor alone; on this device: none"),
    ],
)
def test_bad_input_gets_one_message(words, says, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", *words, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_interrupted_goes_on(tmp_path):
    words = ["reproduce", "cubic-spiral", "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", INTERRUPTS_ITSELF, *words]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    said = run.stdout + run.stderr
    state = tmp_path / "state" / "cubic-spiral-quick-0"
    assert run.returncode == 130, said
    assert "Interrupted. All that was done is kept" in said.replace("\n", " ")
    assert (state / "training.pt").exists() and not (tmp_path / "cubic-spiral.json").exists()
    command = [sys.executable, "-c", CODE, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300)
    assert "going on after" in done.stdout
    (record,) = json.loads((tmp_path / "cubic-spiral.json").read_text())
    assert record["rows"][0]["ours"] < 0.5 and (state / "done").exists()


def test_all_goes_past_what_cannot_run_and_does_not_repeat_what_is_done(tmp_path, monkeypatch, capsys):
    ran = []

    def missing(job):
        ran.append("missing")
        raise UserError("data/x.npz: not at nowhere")

    def diverging(job):
        ran.append("diverging")
        raise FloatingPointError("net: no finite gradient")

    def fine(job):
        ran.append("fine")
        return [Row("a number", 1.0)]

    runs = {"a-missing": missing, "b-diverging": diverging, "c-fine": fine}
    monkeypatch.setattr(experiments, "names", lambda: list(runs))
    monkeypatch.setattr(experiments, "find", lambda name: Experiment("title", "source", runs[name]))

    def reproduce(*words):
        ran.clear()
        with pytest.raises(SystemExit) as stopped:
            main(["reproduce", "all", "--out", str(tmp_path), *words])
        said = capsys.readouterr()
        return stopped.value.code, " ".join((said.out + said.err).split())

    code, said = reproduce()
    assert code == 2 and ran == ["missing", "diverging", "fine"]
    assert "data/x.npz: not at nowhere" in said and "not reproduced: a-missing, b-diverging; why stands above" in said
    assert len(json.loads((tmp_path / "c-fine.json").read_text())) == 1
    code, said = reproduce()
    assert code == 2 and ran == ["missing", "diverging"] and "c-fine: done before" in said
    del runs["a-missing"], runs["b-diverging"]
    assert reproduce("--fresh")[0] == 0 and ran == ["fine"]
    assert len(json.loads((tmp_path / "c-fine.json").read_text())) == 2


def test_a_run_on_another_device_has_a_state_of_its_own(tmp_path, monkeypatch):
    """Broken off here, it is not gone on with there."""

    def broken_off(job):
        raise KeyboardInterrupt

    def whole(job):
        return [Row("a number", 1.0)]

    def reproduce(run, device):
        monkeypatch.setattr(experiments, "names", lambda: ["fine"])
        monkeypatch.setattr(experiments, "find", lambda _: Experiment("title", "source", run, devices=("cpu", "meta")))
        with pytest.raises(SystemExit) as stopped:
            main(["reproduce", "fine", "--device", device, "--out", str(tmp_path)])
        state = tmp_path / "state"
        return stopped.value.code, {p.name: (p / "done").exists() for p in state.iterdir()}

    assert reproduce(broken_off, "cpu") == (130, {"fine-0": False})
    assert reproduce(whole, "meta") == (0, {"fine-0": False, "fine-0-meta": True})
    assert reproduce(whole, "cpu") == (0, {"fine-0": True, "fine-0-meta": True})
