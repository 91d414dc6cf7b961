"""The machine's compilation: once, whole, whoever else asks; one clear message where it cannot be; for other processors too."""

import platform
import subprocess
import sys
import tempfile
import time

import pytest
import test_machine as machine
import torch
from fused_fields import FIELDS

from isocline.engines.fused import build

handed = machine.handed  # its fixture

# A compiler in no time: it notes each library, and makes it of one function.
QUICK = """#!/bin/sh
[ "$1" = --version ] && exec echo "quick 1.0"
case " $* " in *" -c "*) ;; *) echo called >> {log} ;; esac
sleep 0.3
while [ "$1" != -o ]; do shift; done
echo 'extern "C" int answer() {{ return 42; }}' | exec g++ -shared -fPIC -x c++ - -o "$2"
"""


def program(path, text):
    """A script to be run."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def forget():
    """Lets the machine be looked for anew, in the test and after it."""
    build.library.cache_clear()
    build._temporary.cache_clear()
    yield build.library.cache_clear
    build.library.cache_clear()
    build._temporary.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch, forget):
    """An empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "isocline"


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """How often the quick compiler was asked to compile."""
    log = tmp_path / "log"
    monkeypatch.setenv("CXX", program(tmp_path / "quick", QUICK.format(log=log)))
    return lambda: len(log.read_text().splitlines()) if log.exists() else 0


# ---- without a machine --------------------------------------------------------------------------------------------
def test_no_compiler_is_one_message(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.NoMachineError, match=r"no C\+\+ compiler found .* `apt install g\+\+`"):
        build.compiler()


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "nowhere-g++ -m64")
    with pytest.raises(
        build.NoMachineError, match=r"\$CXX is 'nowhere-g\+\+', and there is no such program: correct it"
    ):
        build.compiler()


FAILING = {  # compilers, and what is said of them
    "refuses": ("#!/bin/sh\necho 'it will not' >&2\nexit 1\n", "fused engine's machine: it will not"),
    "says nothing": ("#!/bin/sh\nexit 1\n", "fused engine's machine: it ended with 1 and no word"),
    "makes nothing": ("#!/bin/sh\nexit 0\n", "fused engine's machine: .*(cannot open|no such file)"),
    "makes what is none": (
        '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho > "$2"\n',
        "fused engine's machine: .*(too short|not a mach-o)",
    ),
    "is no program": ("#!/nowhere/sh", r"the C\+\+ compiler '.*' cannot be run: "),
}


@pytest.mark.parametrize(("text", "says"), FAILING.values(), ids=FAILING)
def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(cache, tmp_path, monkeypatch, text, says):
    monkeypatch.setenv("CXX", program(tmp_path / "compiler", text))
    with pytest.raises(build.NoMachineError, match=says):
        build.build()
    assert not list(cache.glob("*"))


# ---- the cache ----------------------------------------------------------------------------------------------------
@pytest.mark.machine
def test_a_machine_is_built_once(cache, calls):
    first = build.build()
    assert (build.build(), calls()) == (first, 1)
    assert list(cache.iterdir()) == [first]


@pytest.mark.machine
def test_several_processes_at_once_build_it_once(cache, calls):
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['build']())"
    command = [sys.executable, "-c", code, build.__file__]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    found = {other.communicate(timeout=60)[0].strip() for other in others}
    assert {other.returncode for other in others} == {0}
    assert found == {str(build.build())} and calls() == 1
    assert len(list(cache.iterdir())) == 1


@pytest.mark.machine
@pytest.mark.parametrize("damage", ["half", "nothing", "first", "more"])
def test_a_damaged_machine_is_built_anew_once(cache, calls, forget, damage):
    path = build.build()
    whole = path.read_bytes()
    path.write_bytes(
        {"half": whole[: len(whole) // 2], "nothing": b"", "first": b"\0" + whole[1:], "more": whole + b"\0"}[damage]
    )
    assert build.library().answer() == 42 and calls() == 2
    forget()
    assert build.library().answer() == 42 and calls() == 2
    (path,) = cache.iterdir()
    assert path.stem.endswith(build._digest(path.read_bytes()))


@pytest.mark.machine
def test_one_that_was_killed_while_it_compiled_is_in_nobodys_way(cache, calls):
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['build']()"
    other = subprocess.Popen([sys.executable, "-c", code, build.__file__], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not calls() and time.monotonic() < until:
        time.sleep(0.01)
    other.kill()
    other.wait()
    assert build.build().exists() and calls() == 2


@pytest.mark.machine
def test_it_depends_on_processor_compiler_and_flags(calls, monkeypatch, tmp_path):
    compiled_by = build.compiler()
    keys = [build.key(compiled_by), build.key([*compiled_by, "-m64"])]
    monkeypatch.setenv("ISOCLINE_CXXFLAGS", "")
    keys.append(build.key(compiled_by))
    monkeypatch.setenv("ISOCLINE_CXXFLAGS", "-O1")
    keys.append(build.key(compiled_by))
    monkeypatch.setattr(build, "features", lambda: ["another"])
    keys.append(build.key(compiled_by))
    program(tmp_path / "quick", QUICK.format(log="log").replace("1.0", "1.1"))
    keys.append(build.key(compiled_by))
    assert len(set(keys)) == len(keys)


def test_where_nobody_may_write_a_folder_of_this_user_serves(tmp_path, monkeypatch, forget):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = build.folder()
    assert path.parent == tmp_path and path.stat().st_mode & 0o777 == 0o700 and build.folder() == path


@pytest.mark.parametrize("trap", ["open to others", "a link"])
def test_a_folder_that_others_could_fill_is_not_used(tmp_path, monkeypatch, forget, trap):
    """What lies there would be run."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = build.folder()
    if trap == "a link":
        path.rmdir()
        (tmp_path / "theirs").mkdir()
        path.symlink_to(tmp_path / "theirs")
    else:
        path.chmod(0o777)
    build._temporary.cache_clear()
    found = build.folder()
    assert found != path and not found.is_symlink() and found.stat().st_mode & 0o077 == 0


def test_nowhere_to_keep_it_is_one_message(tmp_path, monkeypatch, forget):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(build.NoMachineError, match=r"cannot be kept anywhere: .*; let \$XDG_CACHE_HOME be a folder"):
        build.folder()


# ---- other processors ---------------------------------------------------------------------------------------------
slow = pytest.mark.slow
OTHERS = [
    "",  # what any processor of the architecture runs, vectors of 16 bytes
    pytest.param("-march=x86-64-v3", marks=slow),  # 32 bytes, fused multiply-adds
    pytest.param("-march=x86-64-v4", marks=slow),  # 64 bytes
    pytest.param("-march=native", marks=slow),  # without glibc's vector library
]
NEEDS = {"-march=x86-64-v3": "avx2", "-march=x86-64-v4": "avx512f"}


@pytest.mark.machine
@pytest.mark.parametrize("flags", OTHERS)
def test_the_machine_of_another_processor(flags, monkeypatch, forget, handed):
    """Its functions, its programs, its solves; it is kept with the others."""
    if flags in NEEDS and NEEDS[flags] not in build.features():
        pytest.skip(f"this processor has no {NEEDS[flags]}")
    if flags in NEEDS and platform.machine() != "x86_64":
        pytest.skip(f"{flags} is none of {platform.machine()}")
    monkeypatch.setenv("ISOCLINE_CXXFLAGS", flags)
    assert build.made_with().endswith(f"-Wno-psabi {flags}".strip())
    for op in machine.FUNCTIONS:
        machine.test_functions_are_within_few_units_in_the_last_place(op)
    for name in list(FIELDS)[:: 1 if flags else 4]:
        for dtype in (torch.float32, torch.float64):
            machine.test_native_programs(name, dtype)
    for solver, options in (("rk4", {"step": 0.05}), ("tsit5", machine.TIGHT), ("dopri8", machine.TIGHT)):
        machine.test_a_native_solve_is_the_eager_one(solver, options)
    machine.test_failures_are_those_of_the_eager_engine()
    handed.clear()
    machine.test_results_do_not_depend_on_threads_or_neighbours(handed, 100, {})
