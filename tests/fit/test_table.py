"""Roles guessed and given, units, series, and every fault of a table named with its line and column."""

import numpy as np
import pytest

from isocline.fit import UserError
from isocline.fit.reading.table import read_table


def names(table):
    return table.time.header, table.id and table.id.header, [c.header for c in table.states]


# ---- roles ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("hare,year,lynx", ("year", None, ["hare", "lynx"])),
        ("x,Time [s],y", ("Time [s]", None, ["x", "y"])),
        ("x,time_s,y", ("time_s", None, ["x", "y"])),
        ("x,ds,unique_id", ("ds", None, ["x"])),
    ],
)
def test_the_time_is_found_by_its_name(read, header, expected):
    table = read(header + "\n5,0,7\n4,1,8\n6,2,9\n")
    assert names(table)[0] == expected[0]


def test_units_come_from_the_header(read):
    table = read("t [s],level [V],flow (l/min),plain\n0,1,2,3\n1,2,3,5\n")
    assert [(c.name, c.unit) for c in table.states] == [("level", "V"), ("flow", "l/min"), ("plain", "")]
    assert (table.time.name, table.time.unit) == ("t", "s")


def test_without_a_name_the_first_column_that_increases_is_the_time(read):
    table = read("a,b,c\n5,0,1\n3,1,2\n4,2,3\n")
    assert names(table) == ("b", None, ["a", "c"])
    assert "taken for the time" in table.notes[0]


def test_series_are_told_apart_by_a_known_name(read):
    table = read("run,t,x\n1,0,1\n2,0,4\n1,1,2\n2,1,5\n")
    assert names(table) == ("t", "run", ["x"])
    assert [s.id for s in table.series] == ["1", "2"]
    np.testing.assert_array_equal(table.series[1].y, [[4], [5]])


def test_series_are_told_apart_by_the_text_that_makes_times_increase(read):
    table = read("t,city,comment,x\n0,Bath,a,1\n1,Bath,b,2\n0,York,a,3\n1,York,b,4\n")
    assert names(table) == ("t", "city", ["x"])
    assert ("comment", "not numeric") in table.ignored


def test_a_name_and_its_abbreviation_tell_the_same_series_apart(read):
    table = read("country,iso,t,x\nChad,TCD,0,1\nChad,TCD,1,2\nMali,MLI,0,3\nMali,MLI,1,4\n")
    assert names(table) == ("t", "country", ["x"]) and ("iso", "not numeric") in table.ignored
    two = "t,city,side,x\n0,Bath,l,1\n1,Bath,l,2\n0,York,r,3\n1,York,r,4\n0,Bath,k,5\n1,Bath,k,6\n"
    assert read(two).id.header == "side"  # the city alone does not do


NUMBERED = "year,firm,invest\n" + "".join(f"{1935 + i},{firm},{i * firm + 1}\n" for firm in (4, 7) for i in range(4))


def test_series_are_told_apart_by_the_numbers_that_stand_in_blocks(read):
    table = read(NUMBERED)
    assert names(table) == ("year", "firm", ["invest"])
    assert table.notes == ["series are told apart by 'firm': within each, times increase"]
    twice = read(
        "\n".join([f"{line},{line.split(',')[1]}0" for line in NUMBERED.splitlines()])
    )  # the same by other numbers
    assert names(twice) == ("year", "firm", ["invest"])


def test_a_measurement_that_stands_in_blocks_is_not_taken_for_a_series(read):
    with pytest.raises(UserError, match="they do within each 'firm': if these are series of their own, say --id firm"):
        read(NUMBERED.replace(",4,", ",2.5,"))


def test_an_id_that_never_repeats_is_no_id(read):
    assert read("id,t,x\n1,0,5\n2,1,6\n3,2,8\n").id is None


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("note", ("a", "b", "c"), "not numeric"),
        ("empty", ("", "", ""), "empty"),
        ("fixed", ("7", "7", "7"), "constant"),
        ("day", ("1", "2", "3"), "another time column beside 't'"),
        ("", ("0", "1", "2"), "row numbers"),
    ],
)
def test_columns_that_play_no_role_are_ignored_and_said_so(read, column, values, why):
    table = read(f"t,x,{column}\n" + "".join(f"{i},{i * i},{v}\n" for i, v in enumerate(values)))
    assert names(table)[2] == ["x"]
    assert [w for _, w in table.ignored] == [why]


def test_a_first_column_without_a_name_numbers_the_rows_also_of_a_part_of_a_table(read):
    table = read('"",t,x\n12,0,1.5\n3,1,2.5\n7,2,4\n')
    assert names(table) == ("t", None, ["x"]) and table.ignored == [("column 1", "row numbers")]
    assert names(read('"",t,x\n12,0,1.5\n3,1,2.5\n3,2,4\n'))[2] == ["column 1", "x"]


def test_what_does_not_change_within_a_series_is_no_state(read):
    table = read("id,t,x,weight\na,0,1,70\na,1,2,70\nb,0,2,80\nb,1,3,80\n")
    assert names(table)[2] == ["x"]
    assert table.ignored == [("weight", "constant within every series")]


def test_roles_can_be_given(read):
    text = "a,b,c,d\n0,1,9,4\n1,2,8,6\n2,3,9,7\n"
    assert names(read(text, time="b", states=["d", "a"])) == ("b", None, ["d", "a"])
    assert names(read(text, ignore=["c"])) == ("a", None, ["b", "d"])
    with pytest.raises(UserError, match="'a' was given two roles"):
        read(text, time="a", states=["a"])


def test_html_in_a_name_is_a_name(read):
    assert read("t,<script>x</script>\n0,1\n1,2\n").states[0].name == "<script>x</script>"


# ---- times ------------------------------------------------------------------------------------------------------------
def test_dates_become_numbers_with_a_unit(read):
    table = read("date,x\n2024-02-28,1\n2024-02-29,2\n2024-03-02,3\n")
    np.testing.assert_array_equal(table.series[0].t, [0, 1, 3])
    assert table.time.unit == "days since 2024-02-28"


def test_a_logger_s_dates_count_in_minutes(read):
    table = read("timestamp,x\n2024-02-28T12:00,1\n2024-02-28T12:05,2\n2024-02-28T12:10,3\n")
    np.testing.assert_array_equal(table.series[0].t, [0, 5, 10])
    assert table.time.unit == "minutes since 2024-02-28T12:00:00"


# ---- gaps -------------------------------------------------------------------------------------------------------------
def test_empty_cells_stay_empty(read):
    table = read("t,x,y\n0,1,\n1,,2\n2,3,4\n")
    np.testing.assert_array_equal(table.series[0].y, [[1, np.nan], [np.nan, 2], [3, 4]])
    assert "2 empty cells: masked" in table.notes[-1]


def test_rows_and_series_with_nothing_to_say_are_left_out_and_said_so(read):
    table = read("id,t,x\na,0,1\na,1,\na,2,2\nb,0,5\n")
    np.testing.assert_array_equal(table.series[0].t, [0, 2])
    assert [s.id for s in table.series] == ["a"]
    assert any("fewer than two rows ('b')" in n for n in table.notes)
    assert any("1 row without any measurement" in n for n in table.notes)


def test_cycles_are_a_time(read):
    table = read("cell,cycle,capacity\nB5,1,1.8\nB5,2,1.7\nB6,1,2.0\nB6,2,1.9\n")
    assert table.time.name == "cycle" and [s.id for s in table.series] == ["B5", "B6"]


# ---- faults -----------------------------------------------------------------------------------------------------------
def strains(names, doses, replicates):
    """A table whose series several columns tell apart."""
    rows = [
        f"{s},{r},{d},{t},{len(s) + d + r + 0.1 * t**2}"
        for s in names
        for r in replicates
        for d in doses
        for t in range(6)
    ]
    return "\n".join(["strain,replicate,dose,time,x", *rows, ""])


@pytest.mark.parametrize(
    ("text", "roles", "message"),
    [
        ("t,x\n0,1\n", {}, "1 row of data, expected at least two"),
        ("t,name\n0,a\n1,b\n", {}, "no numeric column beside the time 't'"),
        ("t,x\n0,1\n1,abc\n2,3\n3,4\n", {}, "line 3, column 'x': 'abc'; expected a finite number"),
        ("t,x\n0,1\n\n1,inf\n2,3\n", {}, "line 4, column 'x': 'inf'; expected a finite number"),
        ("t,x\n0,1\n1,-Infinity\n2,3\n", {}, "line 3, column 'x': '-Infinity'"),
        ("t;x\n0;1,5\n1;2,5\n2;3,x\n", {}, "line 4, column 'x': '3,x'"),
        ("t,x\n0,1\nsoon,2\n2,3\n", {}, "line 3, column 't': 'soon'; expected a time"),
        ("t,x\n0,1\n,2\n2,3\n", {}, "line 3, column 't': 'empty'; expected a time"),
        ("t,x\n0,1\n1,2\n1,3\n", {}, r"line 4, column 't': time 1 is repeated \(first in line 3\).*--id"),
        ("t,x\n0,1\n2,2\n1,3\n", {}, r"line 4, column 't': time 1 comes after 2 \(line 3\).*sort the rows"),
        ("run,t,x\n1,0,1\n1,0,2\n2,0,3\n", {}, r"line 3, column 't': time 0 of series '1' is repeated \(first in line 2\)"),
        ("run,t,x\n1,0,1\n1,2,2\n2,0,3\n1,0,4\n1,2,5\n", {}, "time 0 of series '1' comes after 2.*'run' alone does not tell series apart"),
        (strains(("T", "D"), (0, 1), (1, 2)), {}, r"within each 'replicate' and 'strain' and 'dose': .*--id replicate --id strain --id dose$"),
        (strains(("T", "D"), (0,), (1, 2)).replace("replicate", "of plate"), {}, "within each 'strain' and 'of plate': .*--id strain --id 'of plate'$"),
        ("year,season,x\n1958,3,1\n1958,4,2\n", {}, "time 1958 is repeated.*keep one row a time"),
        ("date,x\n01/02/2024,1\n02/02/2024,2\n", {}, "column 'date', the time, holds '01/02/2024'.*2024-05-31"),
        ("date,x\n2024-01-01,1\n2024-01-02,2\nlater,3\n", {}, "line 4, column 'date': 'later'; expected a date"),
        ("t,x\n0,5\n1,5\n", {}, "column 'x' is 5 in every row"),
        ("t,x,y\n0,5,1\n1,5,2\n", {"states": ["x"]}, "column 'x' is 5 in every row"),
        ("t,x,y\n0,5,1\n1,6,2\n", {"states": ["z"]}, "no column 'z'; there are 't', 'x', 'y'"),
        ("t,hare,y\n0,5,1\n1,6,2\n", {"states": ["Hair"]}, "no column 'Hair'; did you mean 'hare'"),
        ("t,x,y\n0,,1\n1,,2\n", {"states": ["x"]}, "column 'x' has no number in it"),
        ("a,b\n2,1\n1,2\n3,0\n", {}, "no time column found"),
        ("id,t,x\n,0,1\na,1,2\na,2,3\n", {}, "line 2, column 'id': 'empty'; expected the name of a series"),
        ("id,t,x\na,0,1\nb,0,2\n", {"id": "id"}, "no series has two rows"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(read, text, roles, message):
    with pytest.raises(UserError, match=message):
        read(text, **roles)


# ---- a column a month --------------------------------------------------------------------------------------------------
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def climate(header, *rows):
    return "\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n"


def test_a_column_a_month_is_read_as_one_state(read):
    last = [*range(13, 19), *[""] * 6]
    table = read(climate(["YEAR", *MONTHS, "Annual"], [1950, *range(1, 13), 6.5], [1951, *last, ""]))
    assert names(table) == ("YEAR", None, ["value"])
    assert table.clock.origin == "1950-01-01"
    np.testing.assert_allclose(table.series[0].t[:4], [0, 31, 59, 90])
    np.testing.assert_array_equal(table.series[0].y[:, 0], np.arange(1, 19))
    assert (
        "'Jan' to 'Dec' are the months of 'YEAR'" in table.notes[0]
        and "left out beside them: 'Annual'" in table.notes[0]
    )


def test_stations_with_a_column_a_month_are_series(read):
    full = [m.upper() for m in ("january", "february", "march", "april", "may", "june", "july", "august")]
    header = ["station", "year", *full, "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER"]
    rows = [[name, year, *range(k, k + 12)] for name, k in (("Bath", 1), ("York", 5)) for year in (1950, 1951)]
    table = read(climate(header, *rows))
    assert names(table) == ("year", "station", ["value"])
    assert [s.id for s in table.series] == ["Bath", "York"] and len(table.series[1].t) == 24


def test_months_that_are_asked_for_stay_columns(read):
    table = read(climate(["year", *MONTHS], *([1950 + i, *range(i, i + 12)] for i in range(4))), states=["Jul"])
    assert names(table) == ("year", None, ["Jul"])


@pytest.mark.parametrize("header", [["year", *MONTHS[:-1]], ["year", *MONTHS[:-1], "jan"], ["t", *MONTHS]])
def test_less_than_the_months_of_years_stay_columns(read, header):
    table = read(climate(header, *([1950 + i, *(k * k + i for k in range(len(header) - 1))] for i in range(4))))
    assert table.states[0].header == "Jan" and len(table.series[0].t) == 4


@pytest.mark.parametrize(
    ("year", "july", "message"),
    [("MCML", 7, "line 3, column 'year': 'MCML'"), (1951, "high", "line 3, the column of a month: 'high'; expected a finite number")],
)  # fmt: skip
def test_a_fault_in_a_column_of_a_month_is_named_with_its_line(read, year, july, message):
    rows = [[1950 + i, *range(1, 13)] for i in range(4)]
    rows[1] = [year, *range(1, 7), july, *range(8, 13)]
    with pytest.raises(UserError, match=message):
        read(climate(["year", *MONTHS], *rows))


def test_a_million_rows_are_read(tmp_path):
    t = np.arange(1_000_000) * 0.1
    lines = [f"{a:.1f},{b:.4f}" for a, b in zip(t.tolist(), np.sin(t).tolist(), strict=True)]
    (tmp_path / "long.csv").write_text("t,x\n" + "\n".join(lines))
    table = read_table(tmp_path / "long.csv")
    assert len(table.series[0].t) == 1_000_000


def test_an_age_that_was_told_once_of_a_series_is_no_time(read):
    rows = [f"{i},{30 + i},{p},{p * p + i}" for i in (1, 2, 3) for p in (1, 2, 3, 4)]
    table = read("id,age,period,x\n" + "\n".join(rows) + "\n")
    assert names(table) == ("period", "id", ["x"]) and table.ignored == [("age", "constant within every series")]
    numbered = "\n".join(f"{n},{row}" for n, row in enumerate(rows))
    assert names(read(f",id,age,period,x\n{numbered}\n")) == ("period", "id", ["x"])
    grown = read("id,age,x\n1,3,4\n1,4,6\n2,3,5\n2,5,7\n")
    assert names(grown) == ("age", "id", ["x"])


def test_rows_that_are_only_numbered_are_said_to_be_a_guess(read):
    table = read(",x,y\n1,4,2\n2,5,1\n3,3,7\n4,6,3\n")
    assert names(table) == ("column 1", None, ["x", "y"])
    assert table.notes == [
        "no column says when a row was measured: at equal steps, as 'column 1' numbers them, is a guess"
    ]
