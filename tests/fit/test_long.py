"""Long tables, and what was measured more than once."""

import numpy as np
import pytest

from isocline.fit import UserError

LONG = "time,variable,value\n0,prey,1\n1,prey,2\n2,prey,4\n0.5,predator,5\n2,predator,6\n3,predator,9\n"
TWICE = "time,x\n0,1\n0,2\n1,3\n1,5\n2,7\n"
RATS = "subject,replicate,time,x\n" + "".join(
    f"{s},{r},{t},{10 * s + r + t}\n" for s in (1, 2) for r in (1, 2) for t in (0, 1, 2)
)


def states(table):
    return [c.header for c in table.states]


# ---- long tables ------------------------------------------------------------------------------------------------------
def test_variables_become_states_with_their_own_times(read):
    table = read(LONG)
    assert states(table) == ["prey", "predator"]
    assert table.others == [("variable", "names of the states"), ("value", "values of the states")]
    np.testing.assert_array_equal(table.series[0].t, [0, 0.5, 1, 2, 3])
    nan = np.nan
    np.testing.assert_array_equal(table.series[0].y, [[1, nan], [nan, 5], [2, nan], [4, 6], [nan, 9]])


@pytest.mark.parametrize(
    ("header", "roles"),
    [
        ("time,analyte,conc", {}),
        ("time,parameter,result", {}),
        ("time,name,value", {}),
        ("time,variable,amount", {}),
        ("time,what,amount", {"variable": "what"}),
        ("time,species,value", {"variable": "species"}),
        ("time,what,amount", {"variable": "what", "value": "amount"}),
        ("time,what,amount", {"value": "amount"}),
        ("zeit,observableId,measurement", {"time": "zeit"}),
    ],
)
def test_the_columns_of_a_long_table_are_guessed_or_given(read, header, roles):
    table = read(LONG.replace("time,variable,value", header), **roles)
    assert states(table) == ["prey", "predator"]
    assert table.long == tuple(header.split(",")[1:])


def test_without_a_name_for_variables_a_text_column_tells_series_apart(read):
    table = read("time,city,value\n0,Bath,1\n1,Bath,2\n0,York,3\n1,York,4\n")
    assert (table.id.header, states(table)) == ("city", ["value"])


def test_series_and_units_of_a_long_table(read):
    rows = [(s, t, v, u) for s in "ab" for v, u in (("level", "V"), ("flow", "l/min")) for t in (0, 1, 2)]
    text = "run,time,variable,unit,value\n" + "".join(
        f"{s},{t},{v},{u},{i % 5}\n" for i, (s, t, v, u) in enumerate(rows)
    )
    table = read(text)
    assert states(table) == ["level [V]", "flow [l/min]"]
    assert [s.id for s in table.series] == ["a", "b"]
    assert states(read(text, states=["flow"])) == ["flow [l/min]"]
    assert states(read(text, ignore=["flow"])) == ["level [V]"]


def test_a_value_that_stands_twice_is_averaged_and_said_so(read):
    table = read(LONG + "3,predator,11\n")
    assert table.series[0].y[-1, 1] == 10
    assert any("1 value measured several times at a time" in note for note in table.notes)
    several = read(LONG.replace("2,prey,4\n", "2,prey,4\n2,prey,6\n0.5,predator,7\n"), replicates="series")
    assert [(s.id, s.t.tolist()) for s in several.series] == [("1", [0, 0.5, 1, 2, 3]), ("2", [0.5, 2])]


@pytest.mark.parametrize(
    ("text", "roles", "message"),
    [
        (LONG.replace("1,prey,2", "1,prey,high"), {}, "line 3, column 'value' of 'prey': 'high'; expected a finite number"),
        (LONG.replace("1,prey,2\n2,prey,4", "2,prey,4\n1,prey,2"), {}, r"line 4, column 'time': time 1 comes after 2 \(line 3\)"),
        (LONG.replace("1,prey,2", "1,,2"), {}, "line 3, column 'variable': 'empty'; expected the name of what was measured"),
        (LONG.replace("prey", "time"), {}, "line 2, column 'variable': a variable 'time', which is the name of another column"),
        (LONG, {"states": ["zebu"]}, "no column 'zebu'; there are 'time', 'prey', 'predator'"),
        (LONG, {"log": ["hare"]}, "--log hare: .* has no state 'hare'; there are 'prey', 'predator'"),
        (LONG.replace("1,prey,2", "1,prey,-2"), {"log": ["prey"]}, "line 3, column 'value' of 'prey': '-2'; expected a positive"),
        ("time,what,a,b\n0,x,1,2\n1,x,2,3\n", {"variable": "what"}, "--variable what: which column holds the values"),
        ("time,a,b\n0,1,2\n1,2,3\n", {"value": "a"}, "--value a: which column names what was measured"),
    ],
)  # fmt: skip
def test_a_fault_of_a_long_table_is_named_with_its_line(read, text, roles, message):
    with pytest.raises(UserError, match=message):
        read(text, **roles)


# ---- replicates -------------------------------------------------------------------------------------------------------
def test_repeated_times_are_refused_unless_it_is_said_what_they_are(read):
    with pytest.raises(UserError, match=r"line 3, column 'time': time 0 is repeated.*--replicates mean"):
        read(TWICE)
    mean = read(TWICE, replicates="mean")
    np.testing.assert_array_equal(mean.series[0].y[:, 0], [1.5, 4, 7])
    assert "5 rows at 3 times: the mean" in mean.notes[-1]
    apart = read(TWICE, replicates="series")
    assert [(s.id, s.y[:, 0].tolist()) for s in apart.series] == [("1", [1, 3, 7]), ("2", [2, 5])]
    assert apart.id.header == "replicate"


def test_a_replicate_column_makes_series_within_each_subject(read):
    table = read(RATS)
    assert table.id.header == "subject+replicate"
    assert [s.id for s in table.series] == ["1/1", "1/2", "2/1", "2/2"]
    assert read(RATS, id="subject+replicate").series[3].id == "2/2"


def test_replicates_in_a_column_can_be_averaged(read):
    table = read(RATS, replicates="mean")
    assert (table.id.header, table.ignored) == ("subject", [("replicate", "averaged over")])
    np.testing.assert_array_equal(table.series[1].y[:, 0], [21.5, 22.5, 23.5])


def test_the_mean_passes_over_empty_cells(read):
    table = read("time,x,y\n0,1,4\n0,,5\n1,3,\n1,5,\n2,7,6\n", replicates="mean")
    np.testing.assert_array_equal(table.series[0].y, [[1, 4.5], [4, np.nan], [7, 6]])


def test_numbered_rows_are_numbered_again_when_a_run_asks_for_its_id(read):
    text = "id,time,x\na,0,1\na,0,2\na,1,3\na,1,4\nb,0,3\nb,1,4\n"
    first = read(text, replicates="series")
    assert first.id.header == "id+replicate"
    again = read(text, replicates="series", id="id+replicate")
    assert [s.id for s in again.series] == [s.id for s in first.series] == ["a/1", "a/2", "b/1"]


def test_names_that_cannot_be_told_apart_once_joined(read):
    with pytest.raises(UserError, match="columns 'a', 'b' name two series alike"):
        read("a,b,t,x\np/q,r,0,1\np/q,r,1,2\np,q/r,0,3\np,q/r,1,4\n", id="a+b")
