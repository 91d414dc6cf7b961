"""The phase portrait of a report: a click starts a trajectory, in a real browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from synthetic import lynx_hare_report, with_states

import isocline as ic
from isocline.report import write_report
from isocline.report.html import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium found to show a page")
PLAY = """<script type="module">
const figure = document.querySelector("figure[data-frame]"), svg = figure.querySelector("svg");
const [random, clear] = figure.querySelectorAll("button"), said = () => figure.querySelector("[role=status]").textContent;
const drawn = () => [...figure.querySelectorAll(".trajectory")].map((path) => path.getAttribute("d"));
function click(x, y) {
  const there = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()), clientX = Math.round(there.x), clientY = Math.round(there.y);
  svg.dispatchEvent(new MouseEvent("click", { clientX, clientY, bubbles: true }));
  const at = new DOMPoint(clientX, clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [at.x, at.y];
}
const log = { disabled: clear.disabled };
%s
document.body.replaceChildren(Object.assign(document.createElement("pre"), { id: "log", textContent: JSON.stringify(log) }));
</script></body>"""


def turning(t, y):
    """Around (50, 30)."""
    return torch.stack((30 - y[..., 1], y[..., 0] - 50), -1)


def report(logs=(False, False)):
    made = lynx_hare_report()
    made["phase"] |= {"held": [50.0, 30.0], "span": 3.0, "log": list(logs)}
    if logs[0]:
        made["phase"]["gx"] = [2.0 * 50 ** (i / 19) for i in range(20)]
    return made


def module():
    return ic.export.to_js(turning, torch.ones(2, dtype=torch.float64), rtol=1e-8, atol=1e-8)


def played(page, actions, tmp_path):
    """What the page did."""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", PLAY % actions))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    command = [BROWSER, *flags, "--virtual-time-budget=3000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search('<pre id="log">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found.group(1)))


def frame_of(page):
    return json.loads(html.unescape(re.search('data-frame="(.*?)"', page).group(1)))


@in_browser
@pytest.mark.parametrize("logs", [(False, False), (True, False)])
def test_a_click_starts_a_trajectory_there(logs, tmp_path):
    page = render(report(logs), module())
    frame = frame_of(page)
    x, up = (
        frame["left"] + 0.7 * (frame["right"] - frame["left"]),
        frame["bottom"] - 0.4 * (frame["bottom"] - frame["top"]),
    )
    actions = f"""
log.at = click({x}, {up}); log.first = drawn(); log.said = said(); click({x} - 40, {up}); click({frame["left"]} - 9, {up});
log.count = drawn().length; log.enabled = !clear.disabled; random.click(); log.more = drawn().length;
clear.click(); log.cleared = drawn().length; log.silent = said(); log.again = clear.disabled; log.focused = document.activeElement === random;
log.order = [...figure.querySelectorAll("button")].every((button) => button.tabIndex === 0);"""
    log = played(page, actions, tmp_path)
    assert log["disabled"] and log["enabled"] and log["again"] and log["focused"] and log["order"]
    assert (log["count"], log["more"], log["cleared"], log["silent"]) == (2, 3, 0, "")
    shares = [
        (pixel - frame[a]) / (frame[b] - frame[a])
        for pixel, a, b in zip(log["at"], ("left", "bottom"), ("right", "top"), strict=True)
    ]
    assert shares == pytest.approx([0.7, 0.4], abs=0.01)
    start = [low + share * (high - low) for (low, high), share in zip((frame["x"], frame["y"]), shares, strict=True)]
    start = [10**v if log_ else v for v, log_ in zip(start, logs, strict=True)]
    assert log["said"] == f"From hare {start[0]:.3g}, lynx {start[1]:.3g}."
    # Along the exact circle, in the picture's coordinates.
    ts = torch.linspace(0, 3, 601, dtype=torch.float64)
    a, b = start[0] - 50, start[1] - 30
    circle = torch.stack((50 + a * ts.cos() - b * ts.sin(), 30 + a * ts.sin() + b * ts.cos()), 1)
    points = torch.tensor([[float(v) for v in p.split()] for p in log["first"][0][1:].split("L")], dtype=torch.float64)
    for axis, (begin, end) in enumerate((("left", "right"), ("bottom", "top"))):
        low, high = frame["xy"[axis]]
        at = circle[:, axis].log10() if logs[axis] else circle[:, axis]
        want = frame[begin] + (at - low) / (high - low) * (frame[end] - frame[begin])
        seen = want.isfinite() & (want.abs() < 9999)
        torch.testing.assert_close(points[seen, axis], want[seen], rtol=0, atol=0.06)


@in_browser
def test_a_trajectory_that_runs_away_is_drawn_as_far_as_it_goes(tmp_path):
    running = ic.export.to_js(lambda t, y: y * y, torch.ones(2, dtype=torch.float64))
    actions = "Math.random = () => 0; random.click(); log.said = said(); log.drawn = drawn();"
    log = played(render(report(), running), actions, tmp_path)
    points = log["drawn"][0].split("L")
    assert "runs away" in log["said"] and "NaN" not in log["drawn"][0] and 2 < len(points) < 601


def test_without_a_model_the_picture_stays_a_picture():
    page = render(report())
    assert "<script" not in page and "<button" not in page and "data-frame" not in page and "What it learned" in page
    assert "<button" not in render(with_states(1), module())


def test_a_name_cannot_end_the_script(tmp_path):
    made = report()
    evil = "</script><script>alert(1)</script><!-- <script>"
    made["table"]["states"][0]["name"] = evil
    text = ic.export.to_js(turning, torch.ones(2), name=evil, states=(evil, "b"))
    write_report(made, tmp_path / "report.html", text)
    page = (tmp_path / "report.html").read_text()
    seen = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: seen.append(tag)
    reader.feed(page)
    assert seen.count("script") == 1 and page.count("</script") == 1 and "<!--" not in page
