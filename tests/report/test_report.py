"""The report page: self-contained, safe, complete, whatever the run looks like."""

import re
from html.parser import HTMLParser

import pytest
from synthetic import bare_report, lynx_hare_report, with_series, with_states

from isocline.report import write_report
from isocline.report.html import number, render

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
        if tag not in ("meta", "img", "br", "link"):
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
        "1204 evaluations",
        "3.1e-04",
    ):
        assert piece in text
    assert all(note in text for note in report["table"]["notes"])


def test_the_phase_portrait_needs_two_states():
    assert "vector field" in render(with_states(2)) and "vector field</h2>" not in render(with_states(1))


def test_every_series_has_its_figure():
    assert render(with_series(7)).count("<svg") == 7 + 2


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
    assert [number(x) for x in (None, 0.0, 0.12345, 1234.5, 1e-7, 2.5e9)] == [
        "–",
        "0",
        "0.123",
        "1,234",
        "1.0e-07",
        "2.5e+09",
    ]


def test_ids_inside_the_figures_do_not_clash():
    ids = re.findall(r'\bid="([^"]+)"', render(with_series(6)))
    assert len(ids) == len(set(ids))
