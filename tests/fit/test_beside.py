"""A process beside a fit: what it answers is what this one would have found, whatever becomes of it."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from isocline.fit.beside import HERE, beside

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


@pytest.fixture
def aside():
    with beside(True, "json") as found:
        assert found is not HERE
        yield found


def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def fails(here):
    raise ValueError("there" if os.getpid() != here else "here")


def own():
    return lambda: os.getpid()


def test_what_is_asked_for_is_done_by_another_process_with_one_thread(aside):
    first, second = aside.ask(os.getpid), aside.ask(pow, 2, 10)
    assert second() == 1024 and first() != os.getpid()
    assert first() == first() == aside.ask(os.getpid)()
    assert aside.ask(torch.get_num_threads)() == 1


def test_large_questions_and_answers_do_not_block_each_other(aside):
    many = [np.full(300_000, i) for i in range(4)]
    answers = [aside.ask(np.negative, x) for x in many]
    assert all(np.array_equal(answer(), -x) for answer, x in zip(answers, many, strict=True))


def test_what_fails_there_fails_here(aside):
    answer = aside.ask(fails, os.getpid())
    with pytest.raises(ValueError, match="here"):
        answer()
    assert aside.ask(pow, 2, 2)() == 4


def test_what_cannot_be_handed_over_is_done_here(aside):
    assert aside.ask(own)()() == os.getpid()
    assert aside.ask(lambda: os.getpid())() == os.getpid()


def test_of_a_killed_process_the_work_is_done_here(aside, caplog):
    pid = aside.ask(os.getpid)()
    waiting = aside.ask(time.sleep, 0.2), aside.ask(abs, -3)
    os.kill(pid, signal.SIGKILL)
    with caplog.at_level(logging.INFO, logger="isocline"):
        assert [answer() for answer in waiting] == [None, 3]
        assert aside.ask(os.getpid)() == os.getpid()
    assert sum("is lost" in line for line in caplog.messages) == 1


def test_ctrl_c_is_left_to_this_process(aside):
    pid = aside.ask(os.getpid)()
    os.kill(pid, signal.SIGINT)
    assert aside.ask(os.getpid)() == pid


def test_the_process_ends_with_its_work_also_where_that_is_broken_off():
    with pytest.raises(KeyboardInterrupt), beside(True, "json") as aside:
        pid = aside.ask(os.getpid)()
        aside.ask(time.sleep, 100)
        raise KeyboardInterrupt
    assert not runs(pid)


def test_the_process_ends_where_this_one_is_killed():
    code = """
import os, signal
from isocline.fit.beside import beside
with beside(True, "json") as aside:
    print(aside.ask(os.getpid)(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 20
    while runs(int(done.stdout)):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_there_is_none_with_one_core_or_beside_threads():
    with beside(False, "json") as aside:
        assert aside is HERE
    go_on = threading.Event()
    other = threading.Thread(target=go_on.wait)
    other.start()
    with beside(True, "json") as aside:
        assert aside is HERE and aside.ask(os.getpid)() == os.getpid()
    go_on.set()
    other.join()


COUNTS = """
import sys
from isocline.cli import main
from isocline.engines.fused import solve, threads
from isocline.fit.beside import Beside

ask, asked, taken, known = Beside.ask, [], set(), threads.threads
threads.WORTH, threads.PROCESSORS = 0, 2
Beside.ask = lambda self, *args: (asked.append(1), ask(self, *args))[1]
solve.threads = lambda work: (taken.add(known(work)), known(work))[1]
try:
    main(sys.argv[1:])
except SystemExit:
    print(f"asked {len(asked)}, threads {max(taken)}")
    raise
"""


def test_a_fit_on_two_cores_has_the_numbers_of_one(tmp_path):
    t = np.arange(60) * 0.25
    y = np.stack([np.cos(t), -np.sin(t)], 1) + np.random.default_rng(0).normal(0, 0.05, (60, 2))
    table = tmp_path / "table.csv"
    table.write_text("time,x,y\n" + "".join(f"{a},{b},{c}\n" for a, (b, c) in zip(t, y, strict=True)))
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps({"hidden": [8], "matching": 20, "iterations": 5, "polish": 8, "members": 4, "starts": 2})
    )
    found = []
    for cores in ("1", "2"):
        out = tmp_path / cores
        command = [sys.executable, "-c", COUNTS, "fit", table, "--out", out, "--config", config]
        env = {**os.environ, "OMP_NUM_THREADS": cores, "MKL_NUM_THREADS": cores}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == {"1": "asked 0, threads 1", "2": "asked 2, threads 2"}[cores]
        report = json.loads((out / "report.json").read_text())
        varying = ("command", "created", "history", "stages", "seconds")
        page = (out / "report.html").read_text()
        found.append(
            [
                {name: value for name, value in report.items() if name not in varying},
                *((out / name).read_bytes() for name in ("model.safetensors", "members.safetensors", "states.json")),
                page[page.index("<svg") : page.index("</svg>")],
            ]
        )
    assert found[0] == found[1]
