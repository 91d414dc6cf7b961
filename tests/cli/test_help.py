"""Help and errors of the command line come at once: what they need does not load PyTorch."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
COMMAND = PROJECT["scripts"]["isocline"]
MODULE, _, FUNCTION = COMMAND.partition(":")
CODE = f"""
import sys
from {MODULE} import {FUNCTION}
try:
    {FUNCTION}()
finally:
    print("loaded:", *sorted({{"torch", "pandas", "isocline"}} & set(sys.modules)), file=sys.stderr)
"""


def call(*tokens):
    """(exit code, stdout, the message on stderr, what was loaded)."""
    done = subprocess.run([sys.executable, "-c", CODE, *tokens], capture_output=True, text=True, check=False)
    message, _, loaded = done.stderr.partition("loaded:")
    return done.returncode, done.stdout, message, loaded.split()


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ((), "Learn dynamics"),
        (("--help",), "validate"),
        (("fit", "--help"), "--hold-out"),
        (("bench", "fit", "--help"), "--seeds"),
        (("--version",), ""),
    ],
)
def test_help_needs_no_pytorch(tokens, says):
    code, out, message, loaded = call(*tokens)
    assert (code, message, loaded) == (0, "", [])
    assert out.strip() and says in out


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (("fitt", "a.csv"), "fitt"),
        (("fit", "a.csv", "--hold-uot", "0.3"), "--hold-uot"),
        (("fit", "a.csv", "--seed", "many"), "many"),
        (("validate", "a.csv", "--folds", "few"), "few"),
        (("validate", "a.csv", "--laggs", "2"), "--laggs"),
        (("export", "run"), "--target"),
    ],
)
def test_a_wrong_option_is_told_without_pytorch(tokens, says):
    code, out, message, loaded = call(*tokens)
    assert (code, out, loaded) == (2, "", [])
    assert message.startswith("isocline: ") and message.count("\n") == 1 and says in message


def test_a_command_that_is_understood_loads_what_it_needs():
    code, _, message, loaded = call("show", "no-such-run")
    assert code == 2 and "no-such-run" in message and "torch" in loaded
