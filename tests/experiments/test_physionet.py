"""A hundred stays; the release read from text files; the scores against what they must be."""

import io
import tarfile

import numpy as np
import pytest
import torch

from isocline.experiments.lab.irregular import GRUD, auc
from isocline.experiments.lab.physionet import SERIES, STATIC, read_release
from isocline.experiments.physionet import Data, squared_error
from isocline.fit.errors import UserError

STAYS = {
    "200002": (
        *("00:00,RecordID,200002", "00:00,Age,54", "00:00,Gender,0", "00:00,Height,-1", "00:00,ICUType,4"),
        *("00:10,HR,70", "00:20,HR,80", "01:40,HR,90", "01:40,Temp,36.5", "48:00,pH,7.4"),
    ),
    "100001": ("00:00,RecordID,100001", "00:00,Age,80", "00:00,ICUType,1", "00:00,Weight,-1", "05:00,Glucose,100"),
}


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "set-a"
    folder.mkdir()
    for name, lines in STAYS.items():
        (folder / f"{name}.txt").write_text("\n".join(["Time,Parameter,Value", *lines]) + "\n")
    (tmp_path / "Outcomes-a.txt").write_text(
        "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n100001,6,1,5,-1,0\n200002,16,8,8,9,1\n"
    )
    return folder, tmp_path / "Outcomes-a.txt"


def test_the_release_is_read_stay_by_stay(release):
    stays = read_release(*release)
    assert stays.record.tolist() == [100001, 200002] and stays.died.tolist() == [False, True]
    assert stays.count.tolist() == [2, 5]
    assert stays.static.tolist() == [[80, -1, -1, 1], [54, 0, -1, 4]]
    assert [SERIES[i] for i in stays.param] == ["Weight", "Glucose", "HR", "HR", "HR", "Temp", "pH"]
    assert stays.minute.tolist() == [0, 300, 10, 20, 100, 100, 2880]
    assert np.array_equal(stays.value, np.array([-1, 100, 70, 80, 90, 36.5, 7.4], np.float32))


def test_the_archive_and_the_folder_are_the_same(release, tmp_path):
    folder, outcomes = release
    with tarfile.open(tmp_path / "set-a.tar.gz", "w:gz") as archive:
        for path in folder.iterdir():
            text = path.read_bytes()
            entry = tarfile.TarInfo(f"./set-a/{path.name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    assert read_release(tmp_path / "set-a.tar.gz", outcomes).digest() == read_release(folder, outcomes).digest()


def test_hours_hold_the_means_of_what_rounds_to_them(release):
    x, mask = read_release(*release).binned()
    heart, acid = (len(STATIC) + SERIES.index(name) for name in ("HR", "pH"))
    assert x.shape == (49, 2, 41)
    assert x[0, 1, heart] == 75 and x[2, 1, heart] == 90 and x[48, 1, acid] == np.float32(7.4)
    assert mask[:, 1, heart].nonzero().flatten().tolist() == [0, 2]
    assert mask[0, :, :4].all() and not mask[1:, :, :4].any() and x[0, 0, 0] == 80


def test_a_line_that_cannot_be_read_is_named(release):
    folder, outcomes = release
    (folder / "200002.txt").write_text("Time,Parameter,Value\n00:00,RecordID,200002\n00:10,HR\n")
    with pytest.raises(UserError, match=r"200002.txt, line 3: '00:10,HR'"):
        read_release(folder, outcomes)
    (folder / "300003.txt").write_text("Time,Parameter,Value\n")
    (folder / "200002.txt").write_text("Time,Parameter,Value\n")
    with pytest.raises(UserError, match="300003: no outcome"):
        read_release(folder, outcomes)


def test_the_squared_error_counts_a_variable_of_a_stay_once():
    mask = torch.zeros(49, 2, 41, dtype=torch.bool)
    mask[:10, 0, 0], mask[5, 1, 3] = True, True
    data = Data(torch.zeros(49, 2, 41), mask, torch.zeros(2))
    found = torch.full((49, 2, 41), 9.0)
    found[:10, 0, 0], found[5, 1, 3] = 1.0, 2.0
    assert float(squared_error(found, data)) == pytest.approx((1 + 4) / 82)


def test_the_area_under_the_curve_is_a_probability_of_order():
    scores, positive = torch.rand(200).round(decimals=1), torch.rand(200) < 0.3
    pairs = [(a, b) for a in scores[positive].tolist() for b in scores[~positive].tolist()]
    assert auc(scores, positive) == pytest.approx(sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs))


def test_gru_d_reads_only_the_past_and_nothing_that_is_missing():
    model = GRUD(3, 8, torch.tensor([0.1, 0.2, 0.3]))
    x, ts, mask = torch.randn(6, 4, 3), torch.rand(4, 6).cumsum(1), torch.rand(6, 4, 3) < 0.6
    states = model(x, ts, mask)
    other = torch.where(mask, x, 99.0)
    other[4:] = -5.0
    later = model(other, ts, mask)
    assert torch.equal(states.after[:4], later.after[:4]) and torch.equal(states.before[:5], later.before[:5])
    mask[2] = False
    found = model(x, ts, mask)
    assert torch.equal(found.after[2], found.after[1])


def test_what_was_measured_last_says_more_than_the_mean(quick):
    ours = quick("physionet")["ours"]
    assert ours["last value carried on: squared error"] < ours["mean of each variable: squared error"]
    for name in ("RNN dt", "GRU-D", "ODE-RNN", "neural CDE", "latent ODE"):
        assert 0 <= ours[f"{name}: AUC"] <= 1
