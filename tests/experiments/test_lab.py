"""The harness: breaks lose nothing, records say where numbers come from, data are what they should be."""

import gzip
import hashlib
import json
import math

import pytest
import torch

from isocline.experiments.lab import Job, Kept, Row, datasets, record, train
from isocline.experiments.lab.job import Interrupted
from isocline.fit import UserError


def training(job, iterations, stop_after=None):
    """Fits a line with noise of its own in every step; returns the losses, the weights, what was looked at."""
    torch.manual_seed(5)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    looks = Kept()
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] == stop_after

    job.stop = stop

    def step(i):
        x = torch.randn(8, 3)
        return (model(x) - x.sum(-1, keepdim=True)).square().mean()

    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "looks": looks}
    history = train(job, "line", parts, iterations, step, look=lambda i, loss: looks.append((i, loss)))
    return history.loss, model.weight.detach().clone(), list(looks)


def test_a_broken_training_ends_in_the_numbers_of_an_unbroken_one(tmp_path):
    whole = training(Job(tmp_path / "a"), 30)
    with pytest.raises(Interrupted):
        training(Job(tmp_path / "b"), 30, stop_after=11)
    resumed = training(Job(tmp_path / "b"), 30)
    assert resumed[0] == whole[0] and torch.equal(resumed[1], whole[1])
    assert [i for i, _ in resumed[2]] == list(range(30)) and resumed[2] == whole[2]


def test_another_seed_draws_other_numbers(tmp_path):
    assert training(Job(tmp_path / "a"), 3)[0] != training(Job(tmp_path / "b", seed=1), 3)[0]


def test_a_training_without_finite_gradients_is_given_up(tmp_path):
    w = torch.nn.Parameter(torch.ones(()))
    parts = {"optimizer": torch.optim.SGD([w], lr=0.1)}
    with pytest.raises(FloatingPointError, match="bad: no finite gradient in 20 iterations"):
        train(Job(tmp_path), "bad", parts, 100, lambda i: w * math.nan)
    assert w.item() == 1.0  # no step was taken


def test_a_cell_is_made_once_and_survives_a_break(tmp_path):
    made = Job(tmp_path).cell("a × b", lambda: {"value": (1, 2)})
    again = Job(tmp_path).cell("a × b", lambda: pytest.fail("made again"))
    assert made == again and made["value"] == [1, 2] and made["seconds"] >= 0


def test_a_record_grows_and_says_where_it_comes_from(tmp_path):
    path = tmp_path / "results" / "x.json"
    rows = [Row("a", 1.0, "s", note="why"), Row("b", math.nan, published=2.0)]
    for seed in (0, 1):
        record.append(path, record.run_of("x", False, seed, (12.34, 5.67), rows, ["x.png"], "isocline reproduce x"))
    first, second = json.loads(path.read_text())
    assert (first["seed"], second["seed"]) == (0, 1)
    assert (first["seconds"], first["processor_seconds"]) == (12.3, 5.7)
    assert first["rows"] == [
        {"what": "a", "ours": 1.0, "unit": "s", "note": "why"},
        {"what": "b", "ours": None, "published": 2.0},
    ]
    assert first["machine"]["torch"] == torch.__version__ and first["machine"]["cores"] >= 1 and first["date"]


@pytest.mark.parametrize("text", ["{", '{"a": 1}'])
def test_a_file_that_is_no_record_is_not_overwritten(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.json"):
        record.append(path, {})
    assert path.read_text() == text


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A file at a file:// address, its digest, and an empty cache."""
    monkeypatch.delenv("ISOCLINE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "far").mkdir()
    file = tmp_path / "far" / "d.gz"
    file.write_bytes(gzip.compress(b"hello"))
    return file, hashlib.sha256(b"hello").hexdigest()


def test_a_data_set_is_downloaded_once_and_then_found(tmp_path, served):
    file, digest = served
    job = Job(tmp_path / "job")
    found = datasets.locate(job, "d/d.gz", digest, ("file:///nowhere/d.gz", file.as_uri()), uncompressed=True)
    assert found == datasets.cache() / "d" / "d.gz" and gzip.decompress(found.read_bytes()) == b"hello"
    file.unlink()
    assert datasets.locate(job, "d/d.gz", digest, (file.as_uri(),), uncompressed=True) == found


def test_a_data_set_of_ones_own_comes_first(tmp_path, served):
    file, digest = served
    (tmp_path / "mine" / "d").mkdir(parents=True)
    mine = tmp_path / "mine" / "d" / "d.gz"
    mine.write_bytes(gzip.compress(b"hello", 1))
    job = Job(tmp_path / "job", data=tmp_path / "mine")
    assert datasets.locate(job, "d/d.gz", digest, (file.as_uri(),), uncompressed=True) == mine


def test_what_is_not_the_data_set_is_refused(tmp_path, served):
    file, _ = served
    job = Job(tmp_path / "job")
    with pytest.raises(UserError, match=r"sha256 is .*expected 00"):
        datasets.locate(job, "d/d.gz", "00", (file.as_uri(),), uncompressed=True)
    assert not datasets.cache().exists()
    file.write_bytes(b"half a fi")
    with pytest.raises(UserError, match="not a whole gzip file"):
        datasets.locate(job, "d/d.gz", "00", (file.as_uri(),), uncompressed=True)


def test_a_missing_data_set_says_where_it_was_looked_for(tmp_path, served):
    job = Job(tmp_path / "job", data=tmp_path / "mine")
    with pytest.raises(UserError, match=r"not at .*mine.*cache.*could not be downloaded.*--data"):
        datasets.locate(job, "d/d.gz", "00", ("file:///nowhere/d.gz",))
    with pytest.raises(UserError, match=r"cannot be downloaded. Give the folder"):
        datasets.locate(job, "d/d.gz", "00")
