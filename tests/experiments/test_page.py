"""docs/experiments.md is what the records say, and docs/gallery.md shows their pictures."""

import importlib.util
import json
from pathlib import Path

import pytest

from isocline import experiments

ROOT = Path(__file__).parents[2]


@pytest.fixture
def writer():
    spec = importlib.util.spec_from_file_location("experiments_page", ROOT / "docs" / "experiments.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_written_from_the_records(writer):
    written = writer.PAGE.read_text(encoding="utf-8")
    assert written == writer.page(), "docs/experiments.md is out of date: run `make docs`"
    for name in experiments.names():
        assert f"## {name}\n" in written


def test_the_last_full_run_counts(writer, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "RESULTS", tmp_path)
    assert writer.last_run("spiral") is None
    runs = [{"quick": False, "seed": 1}, {"quick": False, "seed": 2}, {"quick": True, "seed": 3}]
    (tmp_path / "spiral.json").write_text(json.dumps(runs))
    assert writer.last_run("spiral")["seed"] == 2


def test_the_gallery_is_written_from_the_records(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    gallery = importlib.import_module("gallery")
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page(), "docs/gallery.md is out of date: run `make docs`"
    assert gallery.page().count("{container} tile\n") == len(experiments.names())


def test_every_picture_of_a_record_is_there():
    for path in (ROOT / "results").glob("*.json"):
        for run in json.loads(path.read_text(encoding="utf-8")):
            assert not run["quick"], f"{path.name}: a quick run is no result"
            assert run["commit"] and not run["commit"].endswith("+"), f"{path.name}: run from changed sources"
            for picture in run["pictures"]:
                assert (ROOT / "results" / "pictures" / picture).exists(), picture
