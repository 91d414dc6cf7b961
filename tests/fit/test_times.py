"""Times as people write them: dates in several layouts, parts in columns, times of day, offsets from UTC."""

import numpy as np
import pytest

from isocline.fit import UserError
from isocline.fit.reading.clock import Clock


def column(header, cells):
    return f"{header},x\n" + "".join(f"{cell},{i * i}\n" for i, cell in enumerate(cells))


@pytest.mark.parametrize(
    ("cells", "origin", "expected"),
    [
        (["2024-02-28", "2024-02-29", "2024-03-02"], "2024-02-28", [0, 1, 3]),
        (["2024/2/28", "2024/2/29", "2024/3/2"], "2024-02-28", [0, 1, 3]),
        (["28.2.2024", "29.02.2024", "2.3.2024"], "2024-02-28", [0, 1, 3]),
        (["28/02/2024", "29/02/2024", "02/03/2024"], "2024-02-28", [0, 1, 3]),
        (["2/28/2024", "2/29/2024", "3/2/2024"], "2024-02-28", [0, 1, 3]),
        (["20240228", "20240229", "20240302"], "2024-02-28", [0, 1, 3]),
        (["202401", "202402", "202404"], "2024-01-01", [0, 31, 91]),
        (["Feb-28-2024", "Feb-29-2024", "Mar-2-2024"], "2024-02-28", [0, 1, 3]),
        (["28 February 2024", "29 Feb. 2024", "2nd March 2024"], "2024-02-28", [0, 1, 3]),
        (['"February 28, 2024"', '"February 29, 2024"', '"March 2, 2024"'], "2024-02-28", [0, 1, 3]),
        (["2024-Feb-28", "2024-Feb-29", "2024-Mar-2"], "2024-02-28", [0, 1, 3]),
        (["28 Feb 2024 11:30", "28 Feb 2024 12:30", "28 Feb 2024 2:30 PM"], "2024-02-28T11:30:00", [0, 1, 3]),
        (["Jan 2024", "Feb 2024", "Apr 2024"], "2024-01-01", [0, 31, 91]),
        (["2024 January", "2024-Feb", "2024/apr"], "2024-01-01", [0, 31, 91]),
        (["2024M01", "2024M02", "2024M04"], "2024-01-01", [0, 31, 91]),
        (["01/2024", "2/2024", "04/2024"], "2024-01-01", [0, 31, 91]),
        (["12/69", "1/70", "12/99", "1/00"], "1969-12-01", [0, 31, 10957, 10988]),
        (["2024Q1", "2024-Q2", "2024 Q3"], "2024-01-01", [0, 91, 182]),
        (["Q1 2024", "Q2 2024", "Q3 2024"], "2024-01-01", [0, 91, 182]),
        (["2/28/2024 11:30 AM", "2/28/2024 12:30 PM", "2/28/2024 2:30 PM"], "2024-02-28T11:30:00", [0, 1, 3]),
    ],
)
def test_dates_in_the_one_order_that_is_possible(read, cells, origin, expected):
    table = read(column("date", cells))
    assert table.clock.origin == origin
    np.testing.assert_allclose(table.series[0].t, expected, rtol=1e-12)


@pytest.mark.parametrize("wrong", ["31 Feb 2024", "3 Thermidor 2024", "Q5 2024"])
def test_a_date_in_words_that_is_none_is_named_with_its_line(read, wrong):
    with pytest.raises(UserError, match=f"line 3, column 'date': '{wrong}'; expected a date such as 2024-05-31"):
        read(column("date", ["28 Feb 2024", wrong, "1 Mar 2024", "2 Mar 2024"]))


def test_a_month_says_more_than_a_quarter_beside_it(read):
    table = read("year,quarter,month,x\n2020,1,1,4\n2020,1,2,5\n2020,1,3,7\n2020,2,4,6\n")
    assert table.time.header == "year+month"


def test_eight_digits_that_are_no_day_are_numbers(read):
    assert read(column("date", ["20240228", "20240229", "20240230"])).clock == Clock()


@pytest.mark.parametrize(
    ("header", "rows", "expected", "unit"),
    [
        ("year,month", ["1958,11", "1958,12", "1959,1"], [0, 30, 61], "days since 1958-11-01"),
        ("year,month", ["1958,Nov", "1958,december", "1959,Jan"], [0, 30, 61], "days since 1958-11-01"),
        ("year,quarter", ["1958,3", "1958,4", "1959,1"], [0, 92, 184], "days since 1958-07-01"),
        ("Year,qtr", ["1958,Q3", "1958,Q4", "1959,Q1"], [0, 92, 184], "days since 1958-07-01"),
        ("year,month,day", ["1958,11,3", "1958,11,4", "1959,1,1"], [0, 1, 59], "days since 1958-11-03"),
        ("year,month,day,hour", ["1958,1,1,6", "1958,1,1,12", "1958,1,2,0"], [0, 6, 18], "hours since 1958-01-01T06:00:00"),
        ("date,time", ["2024-01-01,08:30", "2024-01-01,09:30", "2024-01-02,08:30"], [0, 1, 24], "hours since 2024-01-01T08:30:00"),
        ("date,hour", ["2024-01-01,0", "2024-01-01,12", "2024-01-02,0"], [0, 12, 24], "hours since 2024-01-01"),
        ("date,time", ["2024-01-01,950", "2024-01-01,1020", "2024-01-02,15"], [0, 0.5, 865 / 60], "hours since 2024-01-01T09:50:00"),
        ("year,doy", ["2023,364", "2023,365", "2024,1"], [0, 1, 2], "days since 2023-12-30"),
        ("year,day", ["2023,364", "2023,365", "2024,1"], [0, 1, 2], "days since 2023-12-30"),
        ("year,doy,hour", ["2023,365,12", "2023,365,18", "2024,1,0"], [0, 6, 12], "hours since 2023-12-31T12:00:00"),
        ("month,day", ["4,30", "5,1", "6,2"], [119, 120, 152], "days"),
        ("Month,Day", ["feb,28", "feb,29", "mar,2"], [58, 59, 61], "days"),
        ("month,day,hour", ["2,28,0", "2,28,12", "3,1,6"], [58, 58.5, 59.25], "days"),
        ("day,hour", ["346,0", "346,12", "347,6"], [346, 346.5, 347.25], "days"),
        ("day,time", ["346,840", "346,1910", "347,0", "347,30"], [346 + 26 / 72, 346 + 115 / 144, 347, 347 + 1 / 48], "days"),
        ("day,time", ["1,8:40", "1,19:10", "2,0:00", "2,0:30"], [1 + 26 / 72, 1 + 115 / 144, 2, 2 + 1 / 48], "days"),
    ],
)  # fmt: skip
def test_parts_of_a_time_are_put_together_where_that_makes_times_increase(read, header, rows, expected, unit):
    table = read(f"{header},x\n" + "".join(f"{row},{i * i}\n" for i, row in enumerate(rows)))
    assert table.time.header == header.replace(",", "+")
    assert table.time.unit == unit
    assert [c for c, _ in table.others] == header.split(",")
    assert [c.header for c in table.states] == ["x"]
    np.testing.assert_allclose(table.series[0].t, expected)
    assert (
        read(f"{header},x\n" + "".join(f"{r},{i}\n" for i, r in enumerate(rows)), time=table.time.header).clock
        == table.clock
    )


def test_months_and_days_without_a_year_are_said_to_be_counted(read):
    assert (
        "'month+day' says no year: time counts days, from 1 January"
        in read("month,day,x\n4,30,1\n5,1,2\n5,2,4\n").notes
    )
    assert "'day+hour' says no year: time counts days" in read("day,hour,x\n1,0,1\n1,12,2\n2,0,4\n").notes
    with pytest.raises(UserError, match=r"line 3, column 'month\+day': '4-31'; expected a time, as a finite number"):
        read("month,day,x\n4,30,1\n4,31,2\n5,2,4\n", time="month+day")


def test_a_header_with_a_plus_is_one_column(read):
    table = read("time+delay,x\n1,4\n2,5\n3,7\n")
    assert (table.time.header, table.clock) == ("time+delay", Clock())


def test_numbers_that_may_be_anything_are_no_times_of_day(read):
    table = read("day,time,x\n1,10,1\n1,20,2\n1,99,4\n2,130,3\n")  # no minute is the 99th
    assert (table.time.header, table.series[0].t.tolist()) == ("time", [10, 20, 99, 130])


def test_years_that_increase_need_no_month(read):
    table = read("year,month,x\n1958,6,1\n1959,6,2\n1960,6,4\n")
    assert (table.time.header, table.ignored) == ("year", [("month", "another time column beside 'year'")])


def test_parts_that_are_asked_for_and_make_no_date_are_named_with_their_line(read):
    with pytest.raises(UserError, match=r"line 3, column 'year\+month': '1958-13'; expected a date"):
        read("year,month,x\n1958,11,1\n1958,13,2\n1959,1,4\n", time="year+month")


def test_times_of_day_and_elapsed_times(read):
    table = read(column("time", ["08:30", "09:30", "10:45:30"]))
    np.testing.assert_allclose(table.series[0].t, [8.5, 9.5, 10.75 + 30 / 3600])
    assert table.time.unit == "hours since 00:00"
    assert (table.clock.text(9.5), table.clock.number("9:30")) == ("09:30:00", 9.5)
    np.testing.assert_allclose(read(column("time", ["23:59", "24:00", "24:02"])).series[0].t, [1439, 1440, 1442])
    with pytest.raises(
        UserError, match=r"line 3, column 'time': time 00:15:00 comes after 23:45:00 .* give the date too"
    ):
        read(column("time", ["23:45", "00:15", "00:45"]))


def test_offsets_from_utc_are_read_and_written(read):
    table = read(column("date", ["2024-11-01T10:00+02:00", "2024-11-01T11:00+02:00", "2024-11-01T13:00+02:00"]))
    np.testing.assert_allclose(table.series[0].t, [0, 1, 3])
    assert table.clock.text(3) == "2024-11-01T13:00:00+02:00"
    assert table.clock.number("2024-11-01T11:00Z") == 3
    assert table.clock.number("2024-11-01T13:00") == 3  # without one: as in the table


def test_the_hour_that_stands_twice_when_summer_ends(read):
    table = read(column("date", ["2024-10-27T02:30+02:00", "2024-10-27T02:30+01:00", "2024-10-27T03:30+01:00"]))
    np.testing.assert_allclose(table.series[0].t, [0, 1, 2])
    assert table.clock.text(1) == "2024-10-27T01:30:00Z"
    assert any("in UTC" in note for note in table.notes)
    with pytest.raises(UserError, match="line 3, column 'date': '2024-10-27T02:30'; expected an offset from UTC"):
        read(column("date", ["2024-10-27T02:30+02:00", "2024-10-27T02:30", "2024-10-27T03:30+01:00"]))


def test_the_unit_in_which_dates_count(read):
    text = column("date", ["2024-02-28", "2024-02-29", "2024-03-02"])
    np.testing.assert_allclose(read(text, time_unit="h").series[0].t, [0, 24, 72])
    np.testing.assert_allclose(read(text, time_unit="w").series[0].t, [0, 1 / 7, 3 / 7])
    with pytest.raises(UserError, match=r"--time-unit h: .* has plain numbers in column 't'; expected dates"):
        read("t,x\n0,1\n1,2\n", time_unit="h")


@pytest.mark.parametrize("name", ["S", "h", "T", "min"])
def test_a_short_name_beside_a_time_is_a_state(read, name):
    table = read(f"date,{name}\n2024-01-01,9\n2024-01-02,5\n2024-01-03,6\n")
    assert (table.time.header, [c.header for c in table.states]) == ("date", [name])


def test_a_column_of_dates_is_the_time_whatever_it_is_called(read):
    table = read("n,when,x\n1,2024-01-01,9\n2,2024-01-02,5\n5,2024-01-04,6\n")
    assert (table.time.header, [c.header for c in table.states]) == ("when", ["n", "x"])
