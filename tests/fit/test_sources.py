"""Where tables come from: compressed text, sheets, Parquet, data frames, several files."""

import datetime
import gzip
import sys

import numpy as np
import pandas as pd
import pytest

from isocline.fit import UserError
from isocline.fit.reading.reader import read_cells
from isocline.fit.reading.table import read_table

PLAIN = "t,x,y\n0,1.5,2\n1,2.5,4\n2,,5.25\n"


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def same(table):
    assert (table.time.header, [c.header for c in table.states]) == ("t", ["x", "y"])
    np.testing.assert_array_equal(table.series[0].t, [0, 1, 2])
    np.testing.assert_array_equal(table.series[0].y, [[1.5, 2], [2.5, 4], [np.nan, 5.25]])


# ---- text -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(PLAIN.encode(), mtime=0),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-16-be"),
        "# logger 7\n# 2024\n" + PLAIN,
        "# " + PLAIN,
        "# logger 7\n#" + PLAIN,
        PLAIN.replace("1,2.5", "# a pause\n1,2.5"),
        PLAIN.replace("\n", " ,,\n", 1).replace("\n1", "\n\n,,\n1"),
        PLAIN.replace("2.5", '"2,5"').replace("1.5", '"1,5"').replace("5.25", '"5,25"'),
        PLAIN.replace("t,x,y", '"t\n",x,y'),
    ],
    ids=["gzip", "UTF-16 without a mark", "the same, big-endian", "comments", "a header in a comment", "one among comments",
         "a comment between", "empty columns and rows", "quoted decimal commas", "a header over two lines"],
)  # fmt: skip
def test_the_same_table_in_other_text(tmp_path, content):
    same(read_table(write(tmp_path / "t.csv", content)))


def test_lines_are_counted_in_the_file_and_not_in_rows(tmp_path):
    path = write(tmp_path / "t.csv", '# made\nt,x,note\n0,1,"two\nlines"\n# a pause\n1,high,"a"\n2,3,\n3,4,\n')
    assert read_cells(path).lines.tolist() == [3, 6, 7, 8]
    with pytest.raises(UserError, match="line 6, column 'x': 'high'"):
        read_table(path)


@pytest.mark.parametrize(
    "cells",
    [
        "1,234 12,345",
        "950 1,020",
        "1,234.5 2,345.0",
        "1 234 2 345",
        "1'234 2'345",
        "1.234,5 2.345,0",
        "1.234.567 2.345.678",
    ],
)
def test_thousands_are_not_set_apart(tmp_path, cells):
    first, second = cells.split(" ", 1) if cells.count(" ") == 1 else ("1 234", "2 345")
    separator = "," if cells == "1,234 12,345" else ";"
    content = f't{separator}x\n0{separator}"{first}"\n1{separator}"{second}"\n'
    with pytest.raises(UserError, match=r"line \d, column 'x': .*; thousands are not to be set apart: write 1234.5"):
        read_table(write(tmp_path / "t.csv", content))


def test_three_decimals_after_a_comma_are_decimals_where_nothing_speaks_against_it(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "t;x\n0;1,234\n1;2,345\n2;0,5\n"))
    np.testing.assert_array_equal(table.series[0].y[:, 0], [1.234, 2.345, 0.5])
    with pytest.raises(
        UserError, match=r"column 'y': '1.250' in a table with decimal commas \(in 'x'\) is 1.234 or 1234"
    ):
        read_table(write(tmp_path / "t.csv", "t;x;y\n0;1,23;1.250\n1;2,34;2.500\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# nothing\n# else\n", "nothing but comments|one column only"),
        ('t,x\n0,1\n1,"2\n2,3\n', "line 3: a quotation mark opens here and is never closed"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "cannot be decompressed"),
        (gzip.compress(b"", mtime=0), "the file is empty"),
        (b"\xff\xfe\x00", "one column only|the file is empty|not a table"),
        ("t,x\n0," + "9" * 200_000 + "\n1,2\n", "line 2, column 'x': '9{40}…'; expected a finite number|time 0"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_table(write(tmp_path / "t.csv", content))
    assert "t.csv" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_names_of_series_are_kept_as_they_are_written(tmp_path):
    text = "id,t,x\n007,0,1\n007,1,2\n12345678901234567890,0,3\n12345678901234567890,1,4\n"
    names = [s.id for s in read_table(write(tmp_path / "t.csv", text)).series]
    assert names == ["007", "12345678901234567890"]


# ---- sheets -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def book(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    made = openpyxl.Workbook()
    made.active.title = "raw"
    for row in (["t", "x", "y"], [0, 1.5, 2], [1, "2.5", 4], [None, None, None], [2, None, 5.25]):
        made.active.append(row)
    days = made.create_sheet("days")
    for row in ([], ["when", "x"], *([datetime.datetime(2024, 2, d), d * d] for d in (27, 28, 29))):
        days.append(row)
    made.create_sheet("none")
    made.save(tmp_path / "book.xlsx")
    return tmp_path / "book.xlsx"


def test_a_sheet_is_chosen_by_name_or_number(book):
    first = read_table(book)
    same(first)
    assert first.notes[0] == "sheet 'raw' was read, of 'raw', 'days', 'none'"
    for sheet in ("days", "2"):
        table = read_table(book, sheet=sheet)
        assert (table.time.header, table.time.unit) == ("when", "days since 2024-02-27")
    assert read_cells(book, sheet="days").lines.tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("sheet", "message"),
    [("day", "no sheet 'day'; there are 'raw', 'days', 'none'"), ("9", "no sheet '9'"), ("none", "'none' has no rows")],
)
def test_a_sheet_that_is_not_there(book, sheet, message):
    with pytest.raises(UserError, match=message):
        read_table(book, sheet=sheet)


def test_only_a_spreadsheet_has_sheets(tmp_path):
    with pytest.raises(UserError, match=r"--sheet 1: .*no Excel file"):
        read_table(write(tmp_path / "t.csv", PLAIN), sheet="1")


# ---- Parquet ------------------------------------------------------------------------------------------------------------
def test_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install 'isocline[parquet]'")
    frame = pd.read_csv(write(tmp_path / "t.csv", PLAIN)).assign(note=["a", None, "c"])
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    same(table)
    assert table.ignored == [("note", "not numeric")]
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_table(write(tmp_path / "broken.parquet", "no"))


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"t\.parquet: .* pip install 'isocline\[parquet\]', or save the table as CSV"):
        read_table(write(tmp_path / "t.parquet", b"PAR1"))


# ---- data frames --------------------------------------------------------------------------------------------------------
def test_a_data_frame_of_pandas():
    frame = pd.DataFrame({"t": [0, 1, 2], "x": [1.5, 2.5, None], "y": [2, 4, 5.25]})
    same(read_table(frame))
    same(read_table(frame.set_index("t")))
    assert read_table(frame).sha256 == read_table(frame.copy()).sha256 != read_table(frame + 1).sha256
    assert read_table(frame).path == "the table"


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_dates_of_a_data_frame(zone):
    stamps = pd.date_range("2024-02-28", periods=4, freq="6h", tz=zone)
    for frame in (pd.DataFrame({"when": stamps, "x": [1, 3, 2, 5]}), pd.DataFrame({"x": [1, 3, 2, 5]}, index=stamps)):
        table = read_table(frame)
        np.testing.assert_array_equal(table.series[0].t, [0, 6, 12, 18])
        assert table.clock.zone == ("+01:00" if zone else "")


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_a_data_frame_of_another_library(library):
    columns = {"t": [0, 1, 2], "x": [1.5, 2.5, None], "y": [2.0, 4.0, 5.25]}
    made = pytest.importorskip(library)
    if library == "pyarrow":
        return same(read_table(made.table(columns)))
    same(read_table(made.DataFrame(columns)))
    return same(read_table(made.DataFrame(columns).lazy()))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pd.DataFrame({"t": [0, 1, 2, 3], "x": ["1", "2", "high", "4"]}), "the table: row 2, column 'x': 'high'"),
        (pd.DataFrame([[0, 1, 2], [1, 2, 3]], columns=["t", "x", "x"]), "the table: .*'x' stands twice"),
        (pd.DataFrame({"t": [], "x": []}), "the table: 0 rows of data"),
        (pd.DataFrame(), "the table: no columns"),
        (pd.DataFrame({0: [0, 1], 1: [2, 3]}), "the table: .* 0, 1: numbers, expected the names"),
        ([1, 2], "the table: expected the path of a file, several paths, or a data frame; found list"),
        ([], "no file given"),
    ],
)
def test_a_fault_of_a_data_frame_is_one_of_the_table(source, message):
    with pytest.raises(UserError, match=message):
        read_table(source)


# ---- several files ------------------------------------------------------------------------------------------------------
def test_each_of_several_files_is_a_series(tmp_path):
    for name, shift in (("b", 1), ("a", 0), ("c", 2)):
        write(tmp_path / "runs" / f"{name}.csv", f"t,x\n0,{shift}\n1,{shift + 1}\n2,{shift + 3}\n")
    table = read_table(tmp_path / "runs" / "*.csv")
    assert [s.id for s in table.series] == ["a", "b", "c"]
    assert table.id.header == "file"
    assert table.rows == 9
    assert [s.id for s in read_table([tmp_path / "runs/c.csv", tmp_path / "runs/*.csv"]).series] == ["c", "a", "b"]


def test_series_inside_of_files_are_told_apart_by_both(tmp_path):
    for name in "pq":
        write(tmp_path / f"{name}.csv", "run,t,x\n1,0,1\n1,1,2\n2,0,2\n2,1,5\n")
    table = read_table(tmp_path / "*.csv")
    assert table.id.header == "file+run"
    assert [s.id for s in table.series] == ["p/1", "p/2", "q/1", "q/2"]
    for given in ("run", "file+run"):
        assert [s.id for s in read_table(tmp_path / "*.csv", id=given).series] == [s.id for s in table.series]


def test_files_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    for folder in "pq":
        write(tmp_path / folder / "run.csv.gz", gzip.compress(b"t,x\n0,1\n1,2\n", mtime=0))
    assert [s.id for s in read_table(tmp_path / "*" / "run.csv.gz").series] == ["p/run", "q/run"]


def test_every_file_counts_for_the_hash(tmp_path):
    paths = [write(tmp_path / f"{n}.csv", PLAIN) for n in "ab"]
    before = read_table(paths).sha256
    write(paths[1], PLAIN.replace("5.25", "5.26"))
    assert len({before, read_table(paths).sha256, read_table(paths[0]).sha256}) == 3


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("t,x\n0,1\n1,2\n", "b.csv: no column 'y', which .*a.csv has"),
        ("t,x,y,z\n0,1,2,3\n1,2,3,4\n", "b.csv: column 'z' is not in .*a.csv"),
        ("t,y,x\n0,1,2\n1,high,3\n", "b.csv: line 3, column 'y': 'high'"),
        ("t,y,x\n0,1,2\n0,2,3\n", "b.csv: line 3, column 't': time 0 of series 'b' is repeated \\(first in line 2\\)"),
        ("", "b.csv: the file is empty"),
    ],
)
def test_a_fault_of_one_of_several_files_is_named_with_the_file(tmp_path, second, message):
    paths = [write(tmp_path / "a.csv", PLAIN), write(tmp_path / "b.csv", second)]
    with pytest.raises(UserError, match=message):
        read_table(paths)


def test_patterns_and_columns_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match=r"none\*\.csv: no file matches"):
        read_table(tmp_path / "none*.csv")
    paths = [write(tmp_path / f"{n}.csv", "t,file,x\n0,1,2\n1,2,3\n") for n in "ab"]
    with pytest.raises(UserError, match="a column 'file', by which the series of several files are to be told apart"):
        read_table(paths)
