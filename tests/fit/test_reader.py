"""Files that are written down in every way people write them, and files that are no tables."""

import sys

import numpy as np
import pytest

from isocline.fit import UserError
from isocline.fit.reading.reader import read_cells


@pytest.fixture
def read(tmp_path):
    def read_(content, name="table.csv", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_cells(path, **options)

    return read_


PLAIN = "t,x,y\n0,1.5,2\n1,2.5,4\n2,,5.25\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", " | "),
        PLAIN.replace(",", ";").replace(".", ","),
        PLAIN.replace(",", "\t").replace(".", ","),
        PLAIN.replace("t,x,y", '"t","x","y"'),
        "\n\n" + PLAIN + "\n\n",
        PLAIN.replace("\n", ",\n"),
        PLAIN.replace(",,", ",NA,"),
    ],
    ids=["plain", "CRLF", "CR", "BOM", "UTF-16", "tab", "bar", "semicolon and decimal comma", "tab and decimal comma",
         "quoted names", "blank lines around", "separator at the end", "NA"],
)  # fmt: skip
def test_the_same_table_however_it_is_written(read, content):
    cells = read(content)
    assert cells.columns == ["t", "x", "y"]
    for column, expected in {"t": [0, 1, 2], "x": [1.5, 2.5, np.nan], "y": [2, 4, 5.25]}.items():
        values, bad = cells.numbers(column)
        np.testing.assert_array_equal(values, expected)
        assert not bad.any()


def test_a_decimal_comma_after_a_thousand_whole_numbers(read):
    cells = read("t;x\n" + "".join(f"{i};{i}\n" for i in range(1000)) + "1000;3,5\n")
    assert cells.numbers("x")[0][-1] == 3.5


def test_a_separator_inside_quotes_does_not_separate(read):
    assert read('t,"a, b"\n0,1\n1,2\n').columns == ["t", "a, b"]


def test_an_old_spreadsheet_s_letters(read):
    cells = read("Zeit;Höhe [µm]\n0;1\n1;2\n".encode("cp1252"))
    assert cells.columns[1] == "Höhe [µm]"
    assert "Windows-1252" in cells.notes[0]


def test_blank_lines_do_not_shift_the_line_numbers(read):
    assert read("\nt,x\n\n0,1\n\n1,2\n").lines.tolist() == [4, 6]


def test_whole_numbers_stay_whole_as_text(read):
    assert read("id,x\n1,1\n2,2\n,3\n").text("id").tolist() == ["1", "2", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        (" \n \n", "the file is empty"),
        (bytes(range(256)) * 20, "a binary file"),
        (b"PK\x03\x04 anything", "a binary file"),
        ("only prose stands here\nand it has no columns\n", "not a table"),
        ("t,x\n", "0 rows of data"),
        ("0,1\n1,2\n2,3\n", "line 1: the first line is 0, 1: numbers, expected the names"),
        ("t,x,x\n0,1,2\n1,2,3\n", "line 1: the column name 'x' stands twice"),
        ("t,x\n0,1,5\n1,2,5\n", "line 2: 3 cells, the header names 2"),
        ("t,x\n0,1\n\n1,2,5\n", "line 4: 3 cells, the header names 2"),
    ],
)
def test_what_is_no_table_is_refused(read, content, message):
    with pytest.raises(UserError, match=r"table\.csv: .*" + message):
        read(content)


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "lynx.csv").write_text(PLAIN)
    with pytest.raises(UserError, match=r"lynks\.csv: no such file; did you mean .*lynx\.csv"):
        read_cells(tmp_path / "lynks.csv")
    with pytest.raises(UserError, match="a folder, not a table"):
        read_cells(tmp_path)


def test_a_single_column_is_a_table_only_where_that_is_asked_for(read):
    assert read("t\n1\n2\n", one_column=True).numbers("t")[0].tolist() == [1, 2]
    with pytest.raises(UserError, match="one column only"):
        read("t\n1\n2\n")


@pytest.fixture
def book(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    made = openpyxl.Workbook()
    for row in (["t", "x [V]"], [0, 1.5], [1, None], [2, "2.5"]):
        made.active.append(row)
    made.save(tmp_path / "book.xlsx")
    return tmp_path / "book.xlsx"


def test_excel(book):
    np.testing.assert_array_equal(read_cells(book).numbers("x [V]")[0], [1.5, np.nan, 2.5])


def test_excel_without_its_package_says_what_to_install(book, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match="pip install openpyxl, or save the sheet as CSV"):
        read_cells(book)


def test_a_broken_spreadsheet(read):
    pytest.importorskip("openpyxl")
    with pytest.raises(UserError, match="cannot be read as a spreadsheet"):
        read("not a zip", "book.xlsx")
