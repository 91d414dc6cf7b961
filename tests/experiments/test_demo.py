"""The demo, a tenth of it: both trainings, and pages that stand alone."""

import json
import re
import subprocess
import sys


def test_the_demo_leaves_an_animation_and_two_pages(tmp_path):
    out = tmp_path / "demo"
    # In a process of its own, as a user has it: the tests' checks of shapes make a training several times slower.
    command = [sys.executable, "-c", "from isocline.cli import main; main()", "demo", "--quick", "--out", str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    assert "spiral" in said and "report.html" in said.replace("\n", "")
    assert (out / "spiral.gif").read_bytes()[:6] == b"GIF89a" and (out / "spiral.gif").stat().st_size < 1_000_000
    assert (out / "spiral.png").read_bytes()[1:4] == b"PNG"
    for page in (out / "spiral.html", out / "lynx-hare" / "report.html"):
        text = page.read_text(encoding="utf-8")
        assert len(text) < 1_500_000 and "</html>" in text
        assert not re.search(r"""(src|href)=["'](?!data:|#)""", text) and "url(http" not in text
    report = json.loads((out / "lynx-hare" / "report.json").read_text())
    assert report["verdict"] in (out / "lynx-hare" / "report.html").read_text(encoding="utf-8")
    assert [s["name"] for s in report["table"]["states"]] == ["hare", "lynx"]
