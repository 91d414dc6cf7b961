"""The tile machine as a shared library: compiled on first use, once for a computer, kept in the user's cache."""

from __future__ import annotations

import ctypes
import getpass
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
logger = logging.getLogger("isocline")
SOURCES = (
    "machine.cpp",
    "adjoint.hpp",
    "back.hpp",
    "forward.hpp",
    "stepper.hpp",
    "interpreter.hpp",
    "products.hpp",
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
    "-Wno-psabi",
)


class NoMachineError(RuntimeError):
    """The machine cannot be built here; the message says what is missing and what to do."""


def folder() -> Path:
    """Where built machines are kept: `$XDG_CACHE_HOME/isocline`, else `~/.cache/isocline`; where nobody may write there, a
    folder of this user's among the temporary ones."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isocline"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    path = Path(tempfile.gettempdir()) / f"isocline-{getpass.getuser()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def compiler() -> str:
    """The compiler: `$CXX`, g++ or clang++.

    Raises:
        NoMachineError: where there is none.
    """
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise NoMachineError(
        "no C++ compiler found (g++ or clang++, or $CXX): install one, on Debian with `apt install g++`"
    )


def key(compiled_by: str) -> str:
    """What the library depends on: the sources, the compiler, the flags, the processor's features."""
    version = subprocess.run([compiled_by, "--version"], capture_output=True, text=True, check=False).stdout
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    parts = [
        *((HERE / name).read_bytes() for name in SOURCES),
        version.encode(),
        " ".join(FLAGS).encode(),
        features.encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def build() -> Path:
    """The path of the library, compiled where it is not there yet; several processes may do so at once.

    Raises:
        NoMachineError: without a compiler, or where it fails, with its words.
    """
    compiled_by = compiler()
    path = folder() / f"machine-{key(compiled_by)}.so"
    if path.exists():
        return path
    said = ""
    logger.warning("isocline: compiling the fused engine's machine, once for this computer; some ten seconds")
    # glibc's vector library first; without it the functions are the scalar ones.
    for extra in (("-march=native", "-DISO_MVEC", "-lmvec"), ("-march=native",), ()):
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".so", delete=False) as aside:
            command = [compiled_by, *FLAGS, str(HERE / "machine.cpp"), "-o", aside.name, *extra, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and _loads(aside.name):
            Path(aside.name).replace(path)
            return path
        said = said or done.stderr
        Path(aside.name).unlink(missing_ok=True)
    raise NoMachineError(f"{compiled_by} could not compile the machine: {said.strip()[:2000]}")


def _loads(path: str) -> bool:
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True


@cache
def library() -> ctypes.CDLL:
    """The machine.

    Raises:
        NoMachineError: where it cannot be built.
    """
    return ctypes.CDLL(str(build()))
