"""`isocline reproduce`: the list, bad input, and a run that is broken off and goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from isocline.cli import main

CODE = "from isocline.cli import main; main()"


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
    ],
)
def test_bad_input_gets_one_message(words, says, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["reproduce", *words, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_interrupted_goes_on(tmp_path):
    command = [sys.executable, "-c", CODE, "reproduce", "cubic-spiral", "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    state = tmp_path / "state" / "cubic-spiral-quick-0"
    until = time.monotonic() + 120
    while not state.exists() and run.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(3.0)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "Interrupted. All that was done is kept" in said.replace("\n", " ")
    assert (state / "training.pt").exists() and not (tmp_path / "cubic-spiral.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300)
    assert "going on after" in done.stdout
    (record,) = json.loads((tmp_path / "cubic-spiral.json").read_text())
    assert record["rows"][0]["ours"] < 0.5 and (state / "done").exists()
