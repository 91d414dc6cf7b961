"""The machine for aarch64, cross-compiled, and run by an emulator in the place of the one for this processor.

As a plugin of pytest (`make aarch64`), or after `install()`, what the fused engine compiles is compiled for that processor, loaded
by emulated.cpp in the emulator, and called there on this process's memory. Threads there are threads; a child of this process
that imports isocline would not know.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

COMPILER, EMULATOR, ROOT = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
MISSING = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
TO_INSTALL = f"no {' and no '.join(MISSING)}: on Debian `apt install g++-aarch64-linux-gnu qemu-user`"
PAGE, WORD = 4096, 2**64 - 1
APART = 1 << 34  # bytes between what the two processes use, at least
AARCH64 = b"\xb7\0"  # in the header of a library
Plain = ctypes.CFUNCTYPE(ctypes.c_int)
native = ctypes.CDLL


def areas(process: int | str) -> list[tuple[int, int]]:
    """The addresses that a process uses, but for its stack's."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    found = [
        line.split()[0].split("-") for line in lines if not line.endswith(("stack]", "[vvar]", "[vdso]", "[vsyscall]"))
    ]
    return [(int(first, 16), int(last, 16)) for first, last in found]


class There:
    """The process in the emulator."""

    def __init__(self) -> None:
        self.memory = os.open("/proc/self/mem", os.O_RDWR)
        self.folder = tempfile.TemporaryDirectory()
        program = Path(self.folder.name) / "emulated"
        source = Path(__file__).with_suffix(".cpp")
        subprocess.run([COMPILER, "-std=c++17", "-O2", "-Wall", "-Wextra", source, "-o", program, "-ldl"], check=True)
        while True:  # an address means the same there and here: nothing of the emulator's own may lie near ours
            command = [EMULATOR, "-L", ROOT, program]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.ask("l")
            theirs = areas(self.process.pid)
            if not any(a < d + APART and c < b + APART for a, b in areas("self") for c, d in theirs):
                break
            self.process.kill()
            self.process.communicate()

    def read(self, count: int) -> bytes:
        """So many bytes from there."""
        assert self.process.stdout is not None
        got = self.process.stdout.read(count)
        if len(got) < count:
            raise RuntimeError(f"the emulator ended with {self.process.wait()}")
        return got

    def write(self, what: bytes) -> None:
        """Bytes to there."""
        assert self.process.stdin is not None
        self.process.stdin.write(what)
        self.process.stdin.flush()

    def ask(self, what: str, first: int = 0, rest: bytes = b"") -> tuple[int, int]:
        """Sends a request (emulated.cpp has the list), and answers those for memory until the answer is there."""
        self.write(struct.pack("<cQQ", what.encode(), first, len(rest)) + rest)
        while True:
            kind, first, second = struct.unpack("<cQQ", self.read(17))
            if kind == b"r":
                return first, second
            if kind == b"w":
                os.pwrite(self.memory, self.read(second), first)
                continue
            try:
                page = os.pread(self.memory, PAGE, first)
            except OSError as error:
                self.process.kill()
                raise RuntimeError(f"the machine touches {second:#x}, where there is nothing") from error
            self.write(page)

    def text(self, at: int) -> bytes:
        """The one that begins at an address there."""
        _, length = self.ask("t", at)
        return self.read(length)


there = cache(There)


class Function(Plain):
    """One of a library's there; its address is the one it has there."""

    _flags_, _restype_ = Plain._flags_, ctypes.c_int

    def __call__(self, *arguments: Any) -> Any:
        """What it returns, a whole number or a text."""
        at = ctypes.cast(self, ctypes.c_void_p).value
        assert at is not None
        words = struct.pack(f"<{len(arguments)}Q", *map(word, arguments))
        found, _ = there().ask("c", at, words)
        return there().text(found) if self.restype is ctypes.c_char_p else ctypes.c_int(found).value


def word(x: Any) -> int:
    """An argument, a whole number or an address, as it is handed over."""
    if isinstance(x, ctypes.Array):
        return ctypes.addressof(x)
    if hasattr(x, "_obj"):  # by reference
        return ctypes.addressof(x._obj)
    return (getattr(x, "value", x) or 0) & WORD


class Library:
    """A shared library there."""

    def __init__(self, path: Path) -> None:
        self.handle, why = there().ask("l", rest=bytes(path))
        if not self.handle:
            raise OSError(there().text(why).decode())

    def __getattr__(self, name: str) -> Function:
        at, _ = there().ask("s", self.handle, name.encode())
        if not at:
            raise AttributeError(name)
        function = Function(at)
        setattr(self, name, function)
        return function


def load(name: str | None, *rest: Any, **named: Any) -> Any:
    """In the place of ctypes.CDLL: a library of either processor, where it belongs."""
    path = Path(name or "nowhere")
    if path.is_file() and path.read_bytes()[18:20] == AARCH64:
        return Library(path)
    return native(name, *rest, **named)


def install() -> None:
    """From here on the machine is the other processor's."""
    ctypes.CDLL, os.environ["CXX"] = load, COMPILER


def pytest_configure() -> None:
    """As a plugin."""
    if MISSING:
        raise pytest.UsageError(TO_INSTALL)
    install()
