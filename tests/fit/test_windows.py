"""Splits and training windows: every step is learned from once, and nothing that is held out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from series import rotation, table_of

from isocline.fit import UserError
from isocline.fit.scale import Scales, StateScale
from isocline.fit.split import Split
from isocline.fit.windows import GAP, MAX_RECORD, MAX_ROWS, Record, choose

UNIT = Scales((StateScale("linear", 0.0, 1.0), StateScale("linear", 0.0, 1.0)), 1.0)


def record_of(*lengths, window=5, spacing=0.5):
    return Record.of(
        table_of(*((np.arange(n) * spacing, rotation(np.arange(n) * spacing)) for n in lengths)).series, UNIT, window
    )


# ---- split ------------------------------------------------------------------------------------------------------------
def test_the_tail_of_every_series_is_held_out():
    table = table_of(*((np.arange(n) * 1.0, rotation(np.arange(n) * 1.0)) for n in (10, 40, 3)))
    split = Split.of(table, 0.2)
    assert [len(s.t) for s in split.train] == [8, 32, 3]
    assert [len(s.t) for s in split.held] == [2, 8, 0]
    assert all(a.t[-1] < b.t[0] for a, b in zip(split.train, split.held, strict=True) if len(b.t))


def test_a_whole_series_can_be_held_out():
    table = table_of(*((np.arange(40) * 1.0, rotation(np.arange(40) * 1.0)) for _ in range(3)))
    split = Split.of(table, "series:b")
    assert split.learned == [True, False, True]
    assert [len(h.t) for h in split.held] == [0, 30, 0]
    assert [s.id for s in split.taught] == ["a", "c"]


@pytest.mark.parametrize(
    ("lengths", "hold_out", "message"),
    [
        ((4,), 0.2, "4 rows to learn from"),
        ((4, 4), 0.2, "every series has fewer than 5 rows"),
        ((10, 10), "series:c", "no series 'c'"),
        ((10,), "series:a", "the table holds one series"),
    ],
)
def test_too_little_is_refused(lengths, hold_out, message):
    table = table_of(*((np.arange(n) * 1.0, rotation(np.arange(n) * 1.0)) for n in lengths))
    with pytest.raises(UserError, match=message):
        Split.of(table, hold_out)


# ---- windows ----------------------------------------------------------------------------------------------------------
@given(st.lists(st.integers(2, 400), min_size=1, max_size=4), st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_at_every_level_the_windows_cover_every_step_once(lengths, window):
    record = record_of(*lengths, window=window)
    steps = sum(n - 1 for n in lengths)
    for level in range(record.levels):
        windows = record.windows(level)
        assert int((~windows.ts.isnan()).sum() - len(windows.ts)) == steps
    last = record.windows(record.levels - 1)
    assert len(last.ts) == len(record.t)  # one window a segment
    assert (last.end == -1).all()


def test_a_window_ends_where_the_next_begins():
    windows = record_of(23).windows(1)
    starts = record_of(23).starts()
    assert windows.start.tolist() == [0, 2, 4]
    assert windows.end.tolist() == [2, 4, -1]
    assert windows.last.tolist() == [10, 10, 2]
    torch.testing.assert_close(windows.y[10, 0], windows.y[0, 1])
    assert len(starts) == 5


def test_no_window_bridges_a_long_gap():
    t = np.concatenate([np.arange(20.0), 19 + GAP + 1 + np.arange(20.0)])
    record = Record.of(table_of((t, rotation(t))).series, UNIT, 5)
    assert [len(x) for x in record.t] == [20, 20]
    assert record.begin == [0.0, 19 + GAP + 1]


def test_rows_much_closer_than_the_dynamics_are_thinned():
    t = np.arange(5000) * 0.001
    record = Record.of(table_of((t, rotation(t))).series, UNIT, 5)
    assert float(np.median(np.diff(record.t[0]))) == pytest.approx(0.1, abs=0.002)


def test_of_a_long_record_stretches_over_the_whole_are_taken():
    n = 10 * MAX_RECORD
    record = record_of(n)
    assert record.rows <= 1.1 * MAX_RECORD
    assert record.begin[0] == 0
    assert record.begin[-1] > 0.98 * n * 0.5
    windows = record.windows(0)
    some = choose(windows, torch.Generator().manual_seed(0))
    assert some.ts.numel() <= MAX_ROWS
    again = choose(windows, torch.Generator().manual_seed(0))
    torch.testing.assert_close(some.start, again.start)


def test_regular_windows_share_their_times_and_irregular_ones_do_not():
    common = record_of(23).windows(0).common
    assert common is not None
    torch.testing.assert_close(common, torch.arange(6, dtype=torch.float64) * 0.5)
    t = np.cumsum(np.random.default_rng(0).random(30))
    assert Record.of(table_of((t, rotation(t))).series, UNIT, 5).windows(0).common is None


def test_a_start_with_an_empty_cell_is_guessed_from_its_neighbours():
    t = np.arange(40) * 0.2
    y = rotation(t)
    y[5, 0] = np.nan
    starts = Record.of(table_of((t, y)).series, UNIT, 5).starts()
    assert float(starts[1, 0]) == pytest.approx(rotation(t)[5, 0], abs=0.02)
