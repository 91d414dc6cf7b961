"""One environment, made once: pinned versions, a stamp, no package index named anywhere."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import isocline

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def would_run(root: Path, target: str) -> str:
    done = subprocess.run(["make", "-n", target], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def clone(tmp_path):
    """The files that `make` looks at, with an environment that is newer than they are."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / ".venv" / ".installed-docs").touch()
    return tmp_path


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench", "reproduce", "docs"])
def test_a_target_installs_in_a_fresh_clone_and_never_again(clone, target):
    assert " install " not in would_run(clone, target)
    (clone / ".venv" / ".installed").unlink()
    assert would_run(clone, target).count(" install ") == (4 if target == "docs" else 3)


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_the_requirements_installs_again(clone, name):
    later = (clone / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(clone / name, (later, later))
    assert " install " in would_run(clone, "demo")


def test_torch_is_installed_first_and_everything_under_constraints(clone):
    (clone / ".venv" / ".installed").unlink()
    installs = [line for line in would_run(clone, "venv").splitlines() if " install " in line]
    assert installs[0].endswith("constraints.txt torch")
    assert all("-c constraints.txt" in line for line in installs)


def test_the_versions_here_are_the_pinned_ones():
    other = {}
    for name, pin in PINS.items():
        try:
            installed = version(name).partition("+")[0]  # torch 2.13.0+cpu is 2.13.0
        except PackageNotFoundError:
            continue  # a pin may be for another platform
        if installed != pin:
            other[name] = f"{installed} here, {pin} in constraints.txt"
    assert other == {}


def test_every_requirement_is_pinned():
    wanted = [*PROJECT["dependencies"]]
    for extra in ("app", "dev", "docs"):
        wanted += PROJECT["optional-dependencies"][extra]
    names = {canonical(re.split(r"[<>=!~\[; ]", line)[0]) for line in wanted}
    assert names <= {canonical(name) for name in PINS}
    assert next(iter(PINS)) == "torch" and "isocline" not in PINS


def test_the_core_requires_torch_alone():
    assert [re.split(r"[<>=]", line)[0] for line in PROJECT["dependencies"]] == ["torch"]


def test_the_version_stands_in_one_place():
    assert version("isocline") == isocline.__version__
    assert "version" in PROJECT["dynamic"]


def test_no_package_index_is_named():
    files = ["Makefile", "pyproject.toml", "constraints.txt", ".ci/run"]
    for name in files:
        assert not re.search(r"index-url|find-links|simple/|--index|-i http", (ROOT / name).read_text()), name
