"""The recipe as a function and as an estimator: frames in, arrays out, scikit-learn's manners."""

import copy
import json
import pickle

import numpy as np
import pandas as pd
import pytest

from isocline.fit import Config, NeuralODERegressor, Result, UserError, fit

QUICK = {"hidden": (8,), "matching": 100, "iterations": 10, "polish": 20, "starts": 1, "members": 0, "blocks": 0}
QUICK |= {"penalty": (1e-4,)}
T = np.arange(60) * 0.3


def circle(t):
    radius = np.exp(-0.05 * t)
    return np.stack([3 + radius * np.cos(t), 2 + radius * np.sin(t)], 1)


FRAME = pd.DataFrame({"time": T, "a": circle(T)[:, 0], "b": circle(T)[:, 1]})
TWO = pd.concat([FRAME.assign(id="u"), FRAME[:40].assign(id="v")])


@pytest.fixture(scope="module")
def one():
    return NeuralODERegressor(**QUICK).fit(FRAME)


@pytest.fixture(scope="module")
def two():
    return NeuralODERegressor(**QUICK).fit(TWO)


# ---- the estimator ----------------------------------------------------------------------------------------------------
def test_predictions_stand_in_the_order_of_the_rows_asked_for_within_the_record_and_beyond(one):
    t = np.array([20.0, 5.05, 18.1234567890123456, 20.0, 0.0, 17.7])
    found = one.predict(t)
    assert found.shape == (6, 2)
    assert np.abs(found[[1, 4, 5]] - circle(t[[1, 4, 5]])).max() < 0.05  # between the rows, and on them
    assert np.array_equal(found[0], found[3]) and np.abs(found - circle(t)).max() < 0.5
    np.testing.assert_array_equal(one.predict(t[:, None]), found)
    np.testing.assert_array_equal(one.predict(pd.DataFrame({"time": t})), found)


def test_the_score_is_that_of_the_states_that_were_observed(one):
    gaps = FRAME.copy()
    gaps.loc[::2, "a"] = np.nan
    assert 0.99 < one.score(gaps) <= 1
    wrong = FRAME.assign(a=FRAME["a"].mean(), b=FRAME["b"] + np.arange(60) % 2)
    assert one.score(wrong.assign(a=FRAME["a"])) < 0.9
    assert one.score(T, circle(T)) == one.score(FRAME)


def test_several_series_are_told_apart(two):
    asked = pd.DataFrame({"id": ["v", "u", "v"], "time": [12.5, 3.0, 3.0]})
    found = two.predict(asked)
    assert (
        two.id_ == "id"
        and np.array_equal(found[1], found[1])
        and np.abs(found - circle(np.array([12.5, 3, 3]))).max() < 0.2
    )
    assert two.result_.ends() == {"u": T[-1], "v": T[39]}


def test_a_driven_system_needs_its_inputs_past_the_end_of_the_record():
    """dx/dt = u - x, u switched every 3 units of time: x is exponential between."""
    t = np.arange(100) * 0.25
    u = np.where(t // 3 % 2 == 0, 1.0, -1.0)
    x = np.zeros(100)
    for i in range(99):
        x[i + 1] = u[i] + (x[i] - u[i]) * np.exp(-0.25)
    whole = pd.DataFrame({"t": t, "u": u, "x": x})
    model = NeuralODERegressor(**QUICK).fit(whole[:80], inputs=["u"])
    assert model.states_ == ("x",)
    shuffled = np.random.default_rng(0).permutation(100)
    assert np.abs(model.predict(whole.iloc[shuffled])[:, 0] - x[shuffled]).max() < 0.1
    with pytest.raises(UserError, match="u"):
        model.predict(whole[["t"]])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (T, "there are several series; give a frame with the columns 'time' and 'id'"),
        (pd.DataFrame({"time": T}), "no column 'id'"),
        (pd.DataFrame({"time": [1.0], "id": ["w"]}), "no series 'w'"),
        (pd.DataFrame({"time": [-1.0], "id": ["u"]}), "inside the record"),
    ],
)
def test_what_cannot_be_predicted_is_said(two, asked, says):
    with pytest.raises(UserError, match=says):
        two.predict(asked)


def test_arrays_of_times_and_states_are_a_table_too():
    y = circle(T)
    y[3, 0] = np.nan
    model = NeuralODERegressor(**QUICK, hold_out=0.2).fit(T, y)
    assert model.result_["scores"][0]["nrmse"] < 0.2
    assert (model.states_, model.time_) == (("y0", "y1"), "t")
    assert model.score(T, y) > 0.99
    with pytest.raises(UserError, match="expected times"):
        model.fit(np.zeros((3, 2)), y)
    with pytest.raises(UserError, match="with y the times are X"):
        model.fit(T, y, time="t")


def test_before_fit_it_says_so():
    with pytest.raises(UserError, match="call fit first"):
        NeuralODERegressor().predict(T)


def test_parameters_are_kept_as_given_and_checked_by_fit():
    hidden = [8, 8]
    model = NeuralODERegressor(hidden=hidden, seed=3)
    assert model.get_params()["hidden"] is hidden
    assert repr(model) == "NeuralODERegressor(hidden=[8, 8], seed=3)"
    assert model.set_params(seed=4) is model and model.seed == 4
    with pytest.raises(ValueError, match="no parameter 'speed'"):
        model.set_params(speed=1)
    with pytest.raises(UserError, match="window=1"):
        NeuralODERegressor(window=1).fit(FRAME)
    assert set(model.get_params()) <= set(Config.model_fields)
    defaults = NeuralODERegressor().get_params()
    assert all(defaults[name] == Config.model_fields[name].default for name in defaults if name != "hold_out")


def test_it_copies_and_pickles(one):
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other.result_.folder != one.result_.folder
        np.testing.assert_array_equal(other.predict(T[:4]), one.predict(T[:4]))
    folder = other.result_.folder
    del other
    assert not folder.exists() and one.result_.folder.exists()


# ---- scikit-learn -----------------------------------------------------------------------------------------------------
def test_scikit_learn_clones_it_and_its_checks_of_parameters_pass():
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'isocline[estimators]'")
    from sklearn.utils import estimator_checks as checks

    model = NeuralODERegressor(**QUICK, seed=2)
    other = sklearn.base.clone(model)
    assert other is not model and other.get_params() == model.get_params()
    for check in (
        checks.check_parameters_default_constructible,
        checks.check_get_params_invariance,
        checks.check_set_params,
        checks.check_no_attributes_set_in_init,
        checks.check_estimator_cloneable,
        checks.check_estimator_repr,
    ):
        check("NeuralODERegressor", NeuralODERegressor())


# ---- the function -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def dated():
    return fit(FRAME.assign(time=pd.date_range("2020-01-01", periods=60)), **QUICK)


def test_a_fit_of_a_frame_with_dates_forecasts_dates(dated):
    assert dated["table"]["rows"] == 60 and dated["verdict"] in repr(dated)
    told = dated.predict(until="2020-03-05")
    assert told["time"].iloc[-1] == pd.Timestamp("2020-03-05") and list(told) == ["time", "a", "b"]
    again = dated.predict(pd.date_range("2020-03-01", periods=5))
    np.testing.assert_allclose(again[["a", "b"]], told[told["time"] >= "2020-03-01"][["a", "b"]], rtol=1e-5)
    np.testing.assert_allclose(dated.inside(["2020-01-05"]), circle(T[4:5]), atol=0.05)
    begin = pd.DataFrame({"time": ["2020-01-01"], "a": [4.0], "b": [2.0]})
    assert len(dated.predict(until="2020-01-11", start=begin)) == 10


def test_a_fit_is_saved_read_and_needs_nothing_of_where_it_was_made(dated, tmp_path):
    folder = dated.save(tmp_path / "kept")
    with pytest.raises(UserError, match="exists already"):
        dated.save(folder)
    assert dated.save(folder, overwrite=True) == folder
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        dated.save(tmp_path / "mine", overwrite=True)
    again = Result.read(folder)
    assert again == dated and again.report.read_text().startswith("<!doctype html>")
    pd.testing.assert_frame_equal(again.predict(until="2020-03-05"), dated.predict(until="2020-03-05"))
    assert (folder / "table.csv").is_file() and not list(folder.glob("*.tmp"))


def test_times_alone_are_those_of_every_series_also_of_more_than_a_report_shows():
    many = pd.concat([pd.DataFrame({"id": i, "t": T[:12], "x": circle(T[:12] + i)[:, 0]}) for i in range(14)])
    found = fit(many, **{**QUICK, "iterations": 0, "polish": 2, "matching": 5})
    assert len(found["series"]) == 12
    told = found.predict([T[12] + 1, T[12] + 2])
    assert sorted(set(told["id"].astype(int))) == list(range(14)) and len(told) == 28


def test_the_folder_of_a_fit_without_one_goes_with_it():
    found = fit({"t": T[:30], "x": circle(T)[:30, 0]}, **{**QUICK, "iterations": 0, "polish": 2})
    folder = found.folder
    assert folder.is_dir() and json.loads((folder / "report.json").read_text()) == found
    del found
    assert not folder.exists()


def test_settings_come_by_name_or_as_a_config():
    with pytest.raises(UserError, match="not both"):
        fit(FRAME, Config(), seed=1)
    with pytest.raises(UserError, match="did you mean 'hidden'"):
        fit(FRAME, hiden=(8,))
