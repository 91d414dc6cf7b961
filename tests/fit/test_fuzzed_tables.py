"""Tables as bad as they come: each ends in a model, or in one message that names something of the table.

Hypothesis makes them: encodings, separators, gaps, repeated and unsorted times, numbers from 1e-300 to 1e300, words among
numbers, quotes, dates, headers in any letters, long and wide. What came of them: pytest --hypothesis-show-statistics.
"""

import json
import math
import re
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from isocline.fit import Config, UserError, fit

# A model in a fraction of a second, not a good one.
SETTINGS = Config(hidden=(2,), matching=3, iterations=1, polish=0, starts=1, members=0, blocks=0, penalty=(1e-2,))
FUZZED = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}

HEADERS = (
    "x", "y", "z", "level [V]", "Höhe (µm)", "温度", "S", "h", "a b", "<b>", "x,y", '"q"', "", "two\nlines", "value", "variable",
    "name", "replicate", "month", "day", "café", "=1+1", "x" * 300, "nan", "time2", "Ca2+", "#x", "-1", "{0}", "%s", "\\alpha",
)  # fmt: skip
WORDS = (
    "", "", "", "NA", "nan", "inf", "-inf", "Infinity", "high", "<0.1", "1,5", "1 234", "1.234,5", "1_000", "0x1F", "1e999", "-",
    "?", "#N/A", "two\nlines", 'a "quote"', "½", "−5", "1.5.2", "TRUE", "2024-01-01", "12:30", "9" * 30, "\x00", "1e",
)  # fmt: skip
SCALES = (*[1.0] * 12, 1e-12, 1e-3, 1e3, 1e12, 1e50, 1e-50, 1e99, 1e-99, 1e-300, 1e300)
CURVES = {
    "sine": lambda i: math.sin(i / 3),
    "growth": lambda i: math.exp(min(i, 60) / 4),
    "positive": lambda i: 2 + math.cos(i / 2),
    "constant": lambda i: 1.0,
    "zero": lambda i: 0.0,
    "jump": lambda i: float(i > 5),
    "decades": lambda i: 10.0 ** ((i * 7) % 9 - 4),
    "chaos": lambda i: (i * 7919 % 101) / 101 - 0.5,
}
TIMES = {
    "even": lambda i: repr(0.25 * i),
    "uneven": lambda i: repr(i**1.5 + 0.1 * math.sin(i)),
    "tiny": lambda i: repr(1 + i * 4e-16),
    "huge": lambda i: repr((i + 1) * 1e299),
    "small": lambda i: repr(i * 1e-300),
    "wide": lambda i: repr(10.0 ** (10 * i - 100)),
    "negative": lambda i: repr(i * 0.5 - 40),
    "dates": lambda i: f"{1 + 400 * i:04d}-02-28",
    "days": lambda i: f"{i % 28 + 1:02d}.{i // 28 + 1:02d}.2024",
    "minutes": lambda i: f"2024-01-05T10:{i % 60:02d}:00Z",
    "nanoseconds": lambda i: f"2024-01-05T10:00:00.{i:09d}",
    "daytimes": lambda i: f"{i}:30",
    "backwards": lambda i: repr(-float(i)),
    "the same": lambda i: "1",
    "words": lambda i: f"step {i}",
}


@st.composite
def tables(draw):
    """(bytes, ending) of a file."""
    pick = lambda values: draw(st.sampled_from(values))
    if pick([False] * 24 + [True]):
        return draw(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode))), "csv"
    n, series = pick([*range(16, 26), *range(9, 16), 3, 1, 0]), pick(["", "", "", "run", "id", "subject"])
    header, clock = (
        [pick(["t", "time", "time", "time [s]", "Time", "date", "year", "zeit", "x0"])],
        TIMES[pick([*TIMES, *["even"] * 30])],
    )
    columns = [[clock(i) for i in range(n)]]
    if series:
        count = pick([2, 1, 3])
        columns[0] = [clock(i // count) for i in range(n)]
        columns.append([pick(["", "s", "12345678901234567890"]) + str(i % count) for i in range(n)])
        header.append(series)
    for _ in range(draw(st.integers(1, 3))):
        curve, scale, shift = CURVES[pick([*CURVES, *["sine"] * 12])], pick(SCALES), pick([0.0, 0.0, 1e8])
        columns.append([repr(scale * (curve(i) + shift)) for i in range(n)])
        name = pick([*HEADERS, *"xyzuvw" * 5])
        header.append(name if name not in header or pick([False] * 9 + [True]) else f"{name} {len(header)}")
    rows = [list(row) for row in zip(*columns, strict=True)]
    if pick([False] * 7 + [True]):
        header = [header[0], "variable", "value"]
        names = ["prey", "predator", *pick([*[[]] * 8, ["time"], [""]])]
        rows = [[row[0], names[k % len(names)], row[-1]] for k, row in enumerate(rows)]
    for _ in range(pick([0, 0, 1, 1, 2, 4]) if rows else 0):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        what = pick([*["gap"] * 9, "cell", "cell", "twice", "swap", "long", "short", "time"])
        if what in ("cell", "gap"):
            row[draw(st.integers(0, len(row) - 1)) if what == "cell" else -1] = pick(WORDS) if what == "cell" else ""
        elif what == "twice":
            rows.append(list(row))
        elif what == "swap":
            rows[0], rows[-1] = rows[-1], rows[0]
        elif what == "time":
            row[0] = pick(WORDS)
        else:
            row[:] = [*row, pick(WORDS)] if what == "long" else row[:-1] or [""]
    separator, end = pick([",", ",", ";", "\t", "|"]), pick(["\n", "\n", "\r\n", "\r"])
    quoted = lambda cell: '"' + cell.replace('"', '""') + '"' if set(cell) & {separator, "\n", '"'} else cell
    lines = [separator.join(map(quoted, row)) for row in [header, *rows]]
    extra = pick([*[""] * 16, "# a comment", "blank", "no header", 'an open "quote'])
    lines = lines[extra == "no header" :] if extra in ("", "no header") else [extra.replace("blank", ""), *lines]
    text = end.join(lines) + pick([end, ""])
    if separator == ";" and pick([True, False]):
        text = text.replace(".", ",")
    encoding = pick(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
    return text.encode(encoding, errors="replace"), pick(["csv", "csv", "tsv", "txt", "dat"])


def outcome(data, ending):
    """What came of a table: "model", or the kind of the message. Without the pictures, which take most of the time."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        patch.setattr("isocline.report.write_report", lambda report, path, script: None)
        path, run = Path(folder) / f"made.{ending}", Path(folder) / "run"
        path.write_bytes(data)
        try:
            report = fit(path, SETTINGS, run)
        except UserError as error:
            message = str(error)
            assert f"made.{ending}" in message, message
            assert len(message) < 1500, message
            assert len(message.splitlines()) == 1, message
            assert sorted(p.name for p in Path(folder).iterdir()) == [path.name]
            return _kind(message)
        assert report == json.loads((run / "report.json").read_text())
        assert report["verdict"]
        assert (run / "model.safetensors").exists()
        return "model"


def _kind(message):
    """A message without what is the table's."""
    message = re.sub(r"\S*made\.\w+:?|'(?:[^'\\]|\\.)*'|\"[^\"]*\"", "…", message)
    return re.sub(r"[-+]?\d[\d.,e+-]*", "#", message)[:70]


@given(tables())
@settings(max_examples=25, **FUZZED)
def test_a_table_ends_in_a_model_or_in_one_message(table):
    event(outcome(*table))


@pytest.mark.slow
@given(tables())
@settings(max_examples=500, **FUZZED)
def test_five_hundred_tables_end_in_a_model_or_in_one_message(table):
    event(outcome(*table))
