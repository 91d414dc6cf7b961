"""`isocline doctor`: what is here, a machine that is tested, and what it says where there is none."""

import json
import platform

import pytest
import torch
from test_bad_input import call

from isocline.cli import doctor
from isocline.engines.fused import build


@pytest.mark.machine
def test_it_reports_and_tests_the_machine(capsys):
    code, out, err = call(capsys, "doctor", "--no-benchmark")
    assert (code, err) == (0, "")
    path = build.build()
    joined = "".join(out.split())
    for said in (torch.__version__, str(path), str(path.stat().st_size), build.made_with(), "Alliswell."):
        assert "".join(said.split()) in joined
    assert out.count("passed") == 2 * len(doctor.fields()) and "FAILED" not in out and "benchmark" not in out


ARM = """processor	: 0
BogoMIPS	: 243.75
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
"""
SYSCTL = """#!/bin/sh
[ "$1" = -n ] && exec echo "Apple M2"
echo "hw.optional.arm.FEAT_BF16: 1"
echo "hw.optional.arm.FEAT_SME: 0"
echo "hw.optional.neon: 1"
"""


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_it_knows_an_arm(monkeypatch, tmp_path, system):
    """As Linux and macOS tell of it, who name it differently; the machine is compiled for it by the flag that it has."""
    (tmp_path / "cpuinfo").write_text(ARM)
    (tmp_path / "sysctl").write_text(SYSCTL)
    (tmp_path / "sysctl").chmod(0o755)
    monkeypatch.setattr(build, "CPUINFO", tmp_path / ("cpuinfo" if system == "Linux" else "none"))
    monkeypatch.setattr(build, "SYSCTL", str(tmp_path / "sysctl"))
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: {"Linux": "aarch64", "Darwin": "arm64"}[system])
    monkeypatch.delenv("ISOCLINE_CXXFLAGS", raising=False)
    found = doctor.system()
    assert (found["processor"], found["vector extensions"]) == {
        "Linux": ("aarch64, maker 0x41, kind 0xd0c", "asimd"),
        "Darwin": ("Apple M2", "neon"),
    }[system]
    assert build.choices() == (("-mcpu=native",), ()) and not {"feat_sme", "cpuinfo"} & set(build.features())


@pytest.mark.machine
def test_it_times_both_engines(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    threads = torch.get_num_threads()
    code, out, _ = call(capsys, "doctor", "--json")
    assert code == 0 and torch.get_num_threads() == threads
    found = json.loads(out)
    assert [(row["batch"], row["what"]) for row in found["benchmark"]] == [
        (batch, what) for batch in (20, 1000) for what in ("forward", "forward and backward")
    ]
    for row in found["benchmark"]:
        assert row["ratio"] == pytest.approx(row["eager_ms"] / row["fused_ms"]) and row["fused_ms"] > 0
    assert found["system"]["threads of PyTorch"] == threads and found["machine"]["bytes"] > 10_000


@pytest.mark.machine
def test_a_machine_that_is_wrong_is_told_by_the_exit_code(capsys, monkeypatch):
    """One whose numbers are not the eager engine's, and one that takes nothing."""
    right = doctor.solve

    def wrong(field, y0, ts, *, engine, **options):
        return right(field, y0 * (1 + 1e-3 * (engine == "fused")), ts, engine=engine, **options)

    monkeypatch.setattr(doctor, "solve", wrong)
    code, out, _ = call(capsys, "doctor", "--no-benchmark")
    assert code == 1 and "FAILED" in out and "wrong on this computer" in out

    def refuses(*_, engine, **__):
        raise ValueError("the reason why")

    monkeypatch.setattr(doctor, "solve", refuses)
    code, out, _ = call(capsys, "doctor", "--json", "--no-benchmark")
    rows = json.loads(out)["self_test"]
    assert code == 1 and {row["why"] for row in rows} == {"the reason why"}


def test_without_a_compiler_it_says_what_to_install_and_all_is_well(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    code, out, _ = call(capsys, "doctor")
    (line,) = [line for line in " ".join(out.split()).split("  ") if "apt install g++" in line]
    assert code == 0 and "engine='eager' does everything" in line
    code, out, _ = call(capsys, "doctor", "--json")
    assert code == 0 and "apt install g++" in json.loads(out)["missing"]


def test_a_compiler_that_fails_is_told_in_its_words(capsys, monkeypatch, tmp_path):
    path = tmp_path / "g++"
    path.write_text("#!/bin/sh\necho 'no such [option]' >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, _ = call(capsys, "doctor")
    said = " ".join(out.split())
    assert code == 1 and "could not compile the fused engine's machine: no such [option]" in said
    assert list((tmp_path / "cache" / "isocline").iterdir()) == []
