"""The tile machine as a shared library: compiled on first use, once for a computer, kept in the user's cache.

Environment: `$CXX` is the compiler, `$XDG_CACHE_HOME` where the cache is, `$ISOCLINE_CXXFLAGS` stands in place of the flags that
suit the processor (none: the machine that any processor of this architecture runs).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CPUINFO, SYSCTL = Path("/proc/cpuinfo"), "/usr/sbin/sysctl"  # where Linux and macOS tell of the processor
logger = logging.getLogger("isocline")
SOURCES = (
    "machine.cpp",
    "lane.cpp",
    "alone.hpp",
    "adjoint.hpp",
    "path.hpp",
    "whole.hpp",
    "together.hpp",
    "back.hpp",
    "forward.hpp",
    "call.hpp",
    "stepper.hpp",
    "interpreter.hpp",
    "bound.hpp",
    "instructions.hpp",
    "products.hpp",
    "memory.hpp",
    "vectors.hpp",
)
FLAGS = (
    "-std=c++17",
    "-O2",
    "-pthread",
    "-fPIC",
    "-shared",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    # GCC rounds products and sums apart in a loop with one sum, for AMD's processors, and not in one with two: a tile's width
    # would show in the last bits. clang has no such parameter and says nothing.
    "--param=avoid-fma-max-bits=0",
    "-Wno-psabi",
)
# The first that compiles and loads. With glibc's vector library; without it functions are the scalar ones, lane by lane.
SUITED = (("-march=native", "-DISO_MVEC", "-lmvec"), ("-march=native",), ())
# Every ARM of 64 bits has vectors of 16 bytes and fused multiply-adds. -mcpu is what all its compilers know "native" by.
SUITED_ARM = (("-mcpu=native",), ())


class NoMachineError(RuntimeError):
    """The machine cannot be built here; the message says what is missing and what to do."""


def folder() -> Path:
    """Where built machines are kept: `$XDG_CACHE_HOME/isocline`, else `~/.cache/isocline`; where nobody may write there, a
    folder of this user's among the temporary ones."""
    with suppress(OSError, RuntimeError):  # the latter: no home
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isocline"
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK | os.X_OK):
            return path
    return _temporary()


@cache
def _temporary() -> Path:
    """Nobody else's: what lies there is loaded into this process."""
    path = Path(tempfile.gettempdir()) / f"isocline-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if path.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
            path = Path(tempfile.mkdtemp(prefix="isocline-"))
    except OSError as error:
        raise NoMachineError(
            f"the fused engine's machine cannot be kept anywhere: {error}; let $XDG_CACHE_HOME be a folder you may write to"
        ) from error
    return path


def compiler() -> list[str]:
    """The command of the compiler: `$CXX`, else g++ or clang++.

    Raises:
        NoMachineError: where there is none.
    """
    if given := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(given[0]):
            return given
        raise NoMachineError(
            f"$CXX is {given[0]!r}, and there is no such program: correct it, or unset it to take g++ or clang++"
        )
    for name in ("g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NoMachineError(
        "no C++ compiler found (g++ or clang++, or $CXX): install one, on Debian with `apt install g++`"
    )


def choices() -> tuple[tuple[str, ...], ...]:
    """Flags beside FLAGS, to be tried in turn: those that suit the processor, or those of `$ISOCLINE_CXXFLAGS` alone."""
    if (given := os.environ.get("ISOCLINE_CXXFLAGS")) is not None:
        return (tuple(shlex.split(given)),)
    return SUITED_ARM if platform.machine() in ("aarch64", "arm64") else SUITED  # Linux' name, macOS' name


def key(compiled_by: list[str]) -> str:
    """What the library depends on: the sources, the compiler, the flags, the processor's features.

    Raises:
        NoMachineError: where the compiler cannot be run.
    """
    sources = [(HERE / name).read_bytes() for name in SOURCES]
    rest = f"{compiled_by} {version_of(compiled_by)} {FLAGS} {choices()} {platform.machine()} {features()}"
    return _digest(b"\0".join([*sources, rest.encode()]))


def features() -> list[str]:
    """The processor's extensions, by the system's names; what Python calls the processor where it does not say."""
    if platform.system() == "Darwin":  # "hw.optional.arm.FEAT_BF16: 1"
        told = [line.rpartition(":") for line in _run([SYSCTL, "hw.optional"]).stdout.splitlines()]
        found = [name.rpartition(".")[2].lower() for name, _, value in told if value.strip() == "1"]
    else:
        lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
        found = next((x for x in lines if x.startswith(("flags", "Features"))), "").partition(":")[2].split()
    return found or [platform.processor()]


def version_of(compiled_by: list[str]) -> str:
    """What the compiler says of itself, in the first line.

    Raises:
        NoMachineError: where it cannot be run.
    """
    done = _run([*compiled_by, "--version"])
    return (done.stdout.splitlines() or [""])[0]


def build() -> Path:
    """The path of the library, compiled where it is not there yet; several processes may ask at once, one compiles.

    Raises:
        NoMachineError: without a compiler, or where it fails, with its words.
    """
    compiled_by = compiler()
    name = key(compiled_by)
    if found := kept(name):
        return found
    with _alone_in(folder()):
        if found := kept(name):
            return found
        logger.warning("isocline: compiling the fused engine's machine, once for this computer; half a minute")
        return _compiled(compiled_by, name, HERE / "machine.cpp", "machine")


def program(compiled_by: list[str], name: str, source: str) -> Path:
    """The path of a library made of a source that includes the machine's, likewise.

    Args:
        compiled_by: the compiler.
        name: what it depends on, as `key`.
        source: of C++.

    Raises:
        NoMachineError: where the compiler fails, with its words.
    """
    if found := kept(name, "program"):
        return found
    with _alone_in(folder()), tempfile.TemporaryDirectory(dir=folder(), prefix="building-") as aside:
        text = Path(aside) / "program.cpp"
        text.write_text(source, encoding="utf-8")
        return kept(name, "program") or _compiled(compiled_by, name, text, "program")


def kept(name: str, what: str = "machine") -> Path | None:
    """The library of a key, whole: the end of its name is the digest of what is in it. A damaged one is removed: to load it
    may end the process."""
    for path in sorted(folder().glob(f"{what}-{name}-*.so")):
        with suppress(OSError):
            if path.stem.endswith(_digest(path.read_bytes())):
                return path
            path.unlink(missing_ok=True)
    return None


def _compiled(compiled_by: list[str], name: str, source: Path, what: str) -> Path:
    said = ""
    try:
        with tempfile.TemporaryDirectory(dir=folder(), prefix="building-") as aside:
            path = Path(aside) / "machine.so"
            for extra in choices():
                told = json.dumps(" ".join([*compiled_by, *FLAGS, *extra]))
                command = [*compiled_by, *FLAGS, f"-I{HERE}", *extra, f"-DISO_MADE_WITH={told}"]
                done = (
                    _both(command, path)
                    if what == "machine"
                    else _run([*command, str(source), "-o", str(path), *_libraries(extra)])
                )
                if done.returncode:
                    said = done.stderr or f"it ended with {done.returncode} and no word"
                elif not (said := _refused(path)):
                    return path.replace(folder() / f"{what}-{name}-{_digest(path.read_bytes())}.so")
    except OSError as error:
        said = str(error)
    raise NoMachineError(f"{' '.join(compiled_by)} could not compile the fused engine's {what}: {said.strip()[:2000]}")


def _both(command: list[str], path: Path) -> subprocess.CompletedProcess[str]:
    """Compiles the machine of either precision, side by side, and links them; as the one that failed, or the last, ended."""
    parts = [(name, size) for name in ("machine", "lane") for size in (4, 8)]
    objects = [str(path.with_name(f"{name}{size}.o")) for name, size in parts]

    def compiled(part: tuple[str, int], into: str) -> subprocess.CompletedProcess[str]:
        name, size = part
        return _run([*command, f"-DISO_SIZE={size}", "-c", str(HERE / f"{name}.cpp"), "-o", into])

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(compiled, parts, objects))
    failed = [one for one in done if one.returncode]
    return failed[0] if failed else _run([*command, *objects, "-o", str(path), *_libraries(command)])


def _libraries(flags: Sequence[str]) -> list[str]:
    """Those among flags once more, behind what needs them."""
    return [*(flag for flag in flags if flag.startswith("-l")), "-lm"]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise NoMachineError(f"the C++ compiler {command[0]!r} cannot be run: {error}") from error


def _refused(path: Path) -> str:
    """Why a library cannot be loaded; nothing where it can."""
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    return ""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """No other process is in here for this folder; where the file system has no locks, several may be, to no harm."""
    import fcntl  # not on every system

    place = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


@cache
def library() -> ctypes.CDLL:
    """The machine.

    Raises:
        NoMachineError: where it cannot be built.
    """
    return ctypes.CDLL(str(build()))


def made_with() -> str:
    """The command that the machine was compiled with, without its files."""
    told = library().isocline_made_with
    told.restype = ctypes.c_char_p
    return told().decode()


@cache
def vector_bytes() -> int:
    """The size of the machine's vectors: numbers of as many samples stand side by side in one as fit."""
    return int(library().isocline_vector_bytes())
