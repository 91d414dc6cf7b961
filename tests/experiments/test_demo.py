"""The demo, a tenth of it: both trainings, and pages that stand alone."""

import json
import re

from isocline.cli.demo import demo_command


def test_the_demo_leaves_an_animation_and_two_pages(tmp_path, capsys):
    out = tmp_path / "demo"
    assert demo_command(out, seed=0, quick=True) == 0
    said = capsys.readouterr().out
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
