"""The report page: self-contained, safe, complete, whatever the run looks like."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic import bare_report, lynx_hare_report, with_series, with_states

from isocline.report import diagnostics, write_figures, write_report
from isocline.report.figures import bounds, thin
from isocline.report.files import drawn
from isocline.report.html import number, render
from isocline.report.streams import streamlines
from isocline.report.ticks import Plain, log_ticks
from isocline.report.validation import render_validation

EVIL = '<script>alert("x")</script> & co'
REPORTS = {
    "two states": lynx_hare_report,
    "one state": lambda: with_states(1),
    "twelve states": lambda: with_states(12),
    "twenty states": lambda: with_states(20),
    "many series": lambda: with_series(12),
    "as little as a fit can say": bare_report,
}


class Tags(HTMLParser):
    """Opens and closes tags, and remembers what it met."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "wbr", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


def parsed(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_is_well_formed_and_needs_no_network(name):
    page = render(REPORTS[name]())
    tags = parsed(page)
    assert not any(tag in ("script", "link", "iframe") for tag, _ in tags.seen)
    for _, attributes in tags.seen:
        for key in ("src", "href", "xlink:href"):
            assert not (attributes.get(key) or "").startswith(("http", "//"))
    assert "@import" not in page and len(page) < 1_500_000
    assert "nan" not in " ".join(tags.text).lower().split()


def test_names_from_the_table_cannot_become_markup():
    report = with_states(2, [EVIL, "b<i>"])
    report["table"]["path"] = f"/tmp/{EVIL.replace('/', '')}.csv"
    report["table"]["time"] = {"name": EVIL, "unit": EVIL}
    report["table"]["notes"] = [EVIL]
    report["series"][0]["id"] = report["model_path"][0]["id"] = EVIL
    report["warnings"] = report["verdict"] = EVIL
    report["warnings"] = [EVIL]
    report["command"] = EVIL
    page = render(report)
    tags = parsed(page)
    assert not any(tag in ("script", "i") and "class" not in a and "style" not in a for tag, a in tags.seen)
    assert "<script" not in page and "alert" in "".join(tags.text)


def test_the_numbers_and_the_verdict_are_on_the_page():
    report = lynx_hare_report()
    text = " ".join("".join(parsed(render(report)).text).split())
    for piece in (
        report["verdict"],
        "neural ODE",
        "persistence",
        "linear ODE",
        "thousand pelts",
        "1,204 evaluations",
        "3.1·10⁻⁴",
    ):
        assert piece in text
    assert all(note in text for note in report["table"]["notes"])


def test_a_run_that_was_interrupted_is_told_from_one_that_is_done():
    report = lynx_hare_report()
    for stopped, points in (("done", 0), ("done", 40), ("interrupted", 0), ("interrupted", 40)):
        page = render({**report, "stopped": stopped, "bands": {**report["bands"], "points": points}})
        assert ("Interrupted before the end" in page) == (stopped == "interrupted")
        assert ("not calibrated yet" in page) == (stopped == "interrupted" and not points)


def test_the_phase_portrait_needs_two_states():
    assert "What it learned" in render(with_states(2)) and "What it learned" not in render(with_states(1))


def test_every_series_has_its_figure():
    assert render(with_series(7)).count("<svg") == 7 + 5


def test_the_figures_are_files_too(tmp_path):
    report = lynx_hare_report()
    path = next(p for p in report["model_path"] if p["part"] == "forecast")
    path["members"] = {"t": path["t"], "y": [path["y"], path["low80"]]}
    report["table"]["states"][0]["name"] = "$a/../b$ <c>"
    wrote = write_figures(report, tmp_path / "figures")
    names = [p.name for p in wrote]
    assert names == [f"{stem}.{kind}" for stem in (
        "trajectories", "horizons", "phase", "ensemble-1-a_.._b_c", "residuals-1-a_.._b_c", "ensemble-2-lynx", "residuals-2-lynx",
        "training",
    ) for kind in ("svg", "pdf")]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == sorted(names)
    for p in wrote:
        data = p.read_bytes()
        assert data.startswith(b"%PDF" if p.suffix == ".pdf" else b"<?xml") and len(data) > 3000
    assert diagnostics.has_members(report) and not diagnostics.has_members(bare_report())


def test_a_nullcline_and_the_equilibria_are_in_the_portrait_of_two_states_and_no_other():
    two, three = render(lynx_hare_report() | {"equilibria": []}), render(with_states(3))
    assert "stands still; dash-dotted" in two and "stands still; dash-dotted" not in three
    assert "Where it stands still" not in two and "centre" in three


def test_residuals_that_are_no_noise_are_named():
    report = lynx_hare_report()
    report["residuals"]["like_noise"] = [True, False]
    assert "Those of lynx are not" in " ".join(render(report).split())


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write_report(lynx_hare_report(), path)
    before = path.read_text()
    broken = lynx_hare_report()
    del broken["history"]
    with pytest.raises(KeyError):
        write_report(broken, path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_numbers_are_short():
    values = (None, 0.0, 0.12345, 1.2, -48.0, 1234.5, 720, 1e-7, 2.5e9)
    assert [number(x) for x in values] == ["–", "0", "0.123", "1.20", "−48.0", "1,234", "720", "10⁻⁷", "2.5·10⁹"]


def test_axis_labels_tell_neighbours_apart():
    for ticks in ([0, 2.5, 5], [1845, 1850], [1.00001, 1.00002], [1e-5, 2e-5], [123456.0, 123456.5], [-2e6, 0, 2e6]):
        plain = Plain()
        plain.set_locs(ticks)
        labels = [plain(t) for t in ticks]
        assert len(set(labels)) == len(ticks) and max(map(len, labels)) < 14
    for low, high in ((0.8, 60), (1.01, 1.02), (3e-5, 2), (1e-12, 1e3), (5.0, 5.0)):
        at, labels = log_ticks(low, high)
        assert 1 <= len(at) <= 7 and len(at) == len(labels)
        assert all(low * 0.99 <= v <= high * 1.01 for v in at)


def test_names_in_the_figures_are_text_and_not_formulas():
    page = render(with_states(2, ["$x^2$", "_hidden"]))
    assert page.count(">$x^2$ [mg/L]<") >= 3 and ">_hidden [°C]<" in page


def test_long_records_make_small_pages_that_keep_their_peaks():
    report = with_states(4)
    t = np.linspace(1845.0, 1935.0, 20_000)
    y = np.sin(t)[:, None] * np.ones(4)
    y[9_999] = 7.0
    report["series"][0] |= {"t": t.tolist(), "y": y.tolist()}
    page = render(report)
    assert len(page) < 800_000 and "extremes of each stretch" in page
    assert 9_999 in thin(t, y[:, 0], 300) and len(thin(t, y[:, 0], 300)) <= 300


def test_a_forecast_that_runs_away_does_not_flatten_the_data():
    low, high = bounds(np.array([0.0, 1.0, np.nan]), np.array([0.5, 1e9]))
    assert -0.1 < low < 0 and 1 < high < 1.4


def test_the_verdict_has_the_colour_of_a_win_only_where_the_neural_ode_wins():
    report = lynx_hare_report()
    assert 'class="verdict won"' in render(report)
    assert 'class="verdict won"' not in render(report | {"won": False})


def test_columns_without_a_spread_and_fields_without_motion_are_drawn():
    report = lynx_hare_report()
    report["series"][0]["y"] = [[3.0, None] for _ in report["series"][0]["t"]]
    report["phase"]["dx"] = report["phase"]["dy"] = [[0.0] * 20 for _ in range(20)]
    report["phase"]["path_x"] = report["phase"]["path_y"] = []
    report["model_path"] = []
    parsed(render(report))


@pytest.mark.parametrize("name", ["two states", "twelve states"])
def test_labels_have_room_and_panels_do_not_overlap(name):
    report = REPORTS[name]()
    for stem, figure in drawn(report):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.axison]
        for box in [*boxes, *(legend.get_window_extent(renderer) for legend in figure.legends)]:
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.width + 1 and box.y1 < figure.bbox.height + 1, (
                stem
            )
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert all(min(a.x1, b.x1) - max(a.x0, b.x0) < 2 or min(a.y1, b.y1) - max(a.y0, b.y0) < 2 for a, b in pairs), (
            stem
        )


def test_lines_of_a_field_keep_apart_and_end_where_it_stands_still():
    y, x = np.mgrid[-1:1:20j, -1:1:20j]
    inwards = streamlines(-x, -y)
    ends = np.array([line[-1] for line in inwards])
    assert len(inwards) > 20 and np.hypot(*(ends - 0.5).T).min() < 0.1
    assert all(np.hypot(*(line[0] - 0.5)) > np.hypot(*(line[-1] - 0.5)) for line in inwards)
    cells = [{*map(tuple, (30 * line).astype(int))} for line in inwards]
    assert sum(map(len, cells)) <= 1.1 * len(set().union(*cells))
    assert streamlines(0 * x, 0 * y) == [] and streamlines(x * np.nan, y) == []


def test_ids_inside_the_figures_do_not_clash():
    ids = re.findall(r'\bid="([^"]+)"', render(with_series(6)))
    assert len(ids) == len(set(ids))


def test_a_validation_page_says_which_fold_failed_and_escapes_names():
    def scores(own, other):
        return [
            {"model": m, "rmse": {"<x>": e}, "nrmse": e, "skill": None, "observations": 4, "parameters": 1}
            for m, e in (("neural ODE", own), ("linear ODE", other))
        ]

    good = {"trained": 8, "held": 2, "failed": None, "coverage": None, "seconds": 1.0}
    folds = [
        {**good, "name": "<b>", "scores": scores(0.25, 0.5)},
        {**good, "name": "late", "scores": scores(0.75, 0.125)},
        {"name": "lost", "trained": 8, "held": 2, "failed": "<it> blew up"},
    ]
    found = {
        "table": "a_b.csv", "plan": {"kind": "series", "folds": None}, "config": {}, "command": "isocline", "sha256": "0",
        "isocline": "1", "stopped": "interrupted", "folds": folds, "scores": scores(0.56, 0.36), "skill": {},
        "coverage": None, "failed": 1, "seconds": 2.0, "verdict": "It does not beat the linear ODE.", "won": False,
    }  # fmt: skip
    page = render_validation(found)
    assert "&lt;b&gt;" in page and "&lt;it&gt; blew up" in page and "<b>" not in page and "<it>" not in page
    assert page.count('class="ours best"') == 1  # the first fold alone is won
    assert "the same command goes on" in page and "one series after another left out" in page
    assert render_validation({**found, "folds": [], "scores": [], "seconds": 0})
