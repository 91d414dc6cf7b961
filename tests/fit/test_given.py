"""Doses and covariates of a table: rows as NONMEM writes them, and what is refused by place."""

import pytest

from isocline.fit import UserError
from isocline.fit.reading.given import Dose
from isocline.fit.reading.table import read_table

NONMEM = """\
ID,TIME,AMT,DV,EVID,CMT,RATE,WT,SEX
1,0,100,0,1,1,0,70,f
1,0,.,0.5,0,2,0,70,f
1,2,.,8.1,0,2,0,70,f
1,4,60,.,1,2,30,70,f
1,5,.,9.0,0,2,0,70,f
2,0,80,0,1,1,0,55,m
2,3,.,6.0,0,2,0,55,m
"""


def table(tmp_path, text, **options):
    path = tmp_path / "pk.csv"
    path.write_text(text)
    return read_table(path, **{"given": True, "states": ("DV",), **options})


def test_dose_rows_of_nonmem_are_doses_and_no_measurements(tmp_path):
    read = table(tmp_path, NONMEM, covariates=("WT", "SEX"))
    assert [s.t.tolist() for s in read.series] == [[0, 2, 5], [3]]
    assert [s.y[:, 0].tolist() for s in read.series] == [[0.5, 8.1, 9.0], [6.0]]
    assert read.given["1"].doses == [Dose(0, 100, 0, 1), Dose(4, 60, 2, 2)]
    assert read.given["2"].doses == [Dose(0, 80, 0, 1)]
    assert read.given["1"].covariates == {"WT": 70, "SEX": 0} and read.given["2"].covariates == {"WT": 55, "SEX": 1}
    roles = dict(read.others)
    assert roles["AMT"] == "dose" and roles["WT"] == "covariate" and roles["EVID"].startswith("kind of a row")
    assert "SEX: f = 0, m = 1" in read.notes and "3 doses to 2 series" in read.notes


def test_rows_with_an_amount_and_no_value_are_doses_without_a_column_that_says_so(tmp_path):
    text = "subject,time,dose,conc\n1,0,25,\n1,2,,17.3\n1,12.5,3.5,\n1,12.5,,16\n2,0,20,\n2,1,,9\n"
    read = table(tmp_path, text, states=("conc",), doses=("dose -> central",))
    assert [s.t.tolist() for s in read.series] == [[2, 12.5], [1]]
    assert read.given["1"].doses == [Dose(0, 25, 0, "central"), Dose(12.5, 3.5, 0, "central")]
    assert ("dose", "dose into central") in read.others


def test_an_amount_repeated_in_every_row_is_one_dose_at_the_first_and_further_ones_are_written_out(tmp_path):
    text = "subject,time,dose,conc\n1,0,4,0\n1,1,4,3\n2,0,5,0\n2,1,5,4\n"
    read = table(tmp_path, text, states=("conc",), doses=("dose",))
    assert [g.doses for g in read.given.values()] == [[Dose(0, 4, 0, None)], [Dose(0, 5, 0, None)]]
    assert sum(len(s.t) for s in read.series) == 4
    more = "id,time,amt,evid,addl,ii,dv\n1,0,10,1,2,12,0\n1,30,0,0,0,0,3\n1,40,0,0,0,0,2\n"
    read = table(tmp_path, more, states=("dv",))
    assert [d.t for d in read.given["1"].doses] == [0, 12, 24]


def test_a_reset_is_noted_with_its_dose_and_without_one(tmp_path):
    text = NONMEM.replace("1,4,60,.,1", "1,4,60,.,4").replace("2,3,.,6.0", "2,2,.,0,3,2,0,55,m\n2,3,.,6.0")
    read = table(tmp_path, text)
    assert read.given["1"].resets == [4] and read.given["1"].doses == [Dose(0, 100, 0, 1), Dose(4, 60, 2, 2)]
    assert read.given["2"].resets == [2] and read.given["2"].doses == [Dose(0, 80, 0, 1)]
    assert [s.t.tolist() for s in read.series] == [[0, 2, 5], [3]]


STEADY = "id,time,amt,evid,ss,addl,ii,dv\n1,0,10,1,1,5,12,0\n1,30,0,0,0,0,0,3\n1,40,5,4,0,1,8,0\n1,50,0,0,0,0,0,2\n"


def test_a_dose_in_steady_state_and_further_ones_up_to_what_begins_anew(tmp_path):
    read = table(tmp_path, STEADY, states=("dv",))
    first = [Dose(0, 10, 0, None, 12), *(Dose(t, 10, 0, None) for t in (12, 24, 36))]
    assert read.given["1"].doses == [*first, Dose(40, 5, 0, None), Dose(48, 5, 0, None)]
    again = STEADY.replace("1,40,5,4,0,1,8", "1,20,5,1,1,1,8").replace("1,30,0", "1,19,0")
    doses = table(tmp_path, again, states=("dv",)).given["1"].doses
    assert doses == [*first[:2], Dose(20, 5, 0, None, 8), Dose(28, 5, 0, None)]


def test_a_steady_state_of_a_network_is_refused(tmp_path):
    read = table(tmp_path, STEADY.replace("4,0,1,8", "1,0,1,8"), states=("dv",))
    with pytest.raises(UserError, match="ss is 1 at 0: a steady state is known of equations without networks only"):
        read.given["1"].regimen(read.states, read.path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (STEADY.replace("1,1,5", "1,2,5"), {"states": ("dv",)}, "line 2, column 'ss': '2'; expected 0, or 1 for a dose before which"),
        (STEADY.replace("5,12", "0,0"), {"states": ("dv",)}, "line 2, column 'ii': '0'; expected the time between doses in a column ii, as ss asks"),
        (STEADY.replace("1,5,12", "0,5,0"), {"states": ("dv",)}, "line 2, column 'ii': '0'; expected the time between doses in a column ii, as addl"),
        (STEADY.replace("5,12", "0.5,12"), {"states": ("dv",)}, "line 2, column 'addl': '0.5'; expected a whole number of further doses"),
        (STEADY.replace("0,10,1", "0,0,1"), {"states": ("dv",)}, "line 2, column 'ss': '1'; expected 0 where no amount is given"),
        (NONMEM.replace("1,4,60,.,1", "1,4,60,.,5"), {}, "line 5, column 'EVID': '5'; expected 0 "),
        (NONMEM.replace("30,70", "-2,70"), {}, "line 5, column 'RATE': '-2'; expected a rate"),
        (NONMEM.replace("1,2,.,8.1,0,2,0,70", "1,2,.,8.1,0,2,0,71"), {"covariates": ("WT",)}, "line 4, column 'WT': '71'; expected 70 as"),
        (NONMEM.replace("1,100,", "1,much,").replace("0,100", "0,much"), {}, "line 2, column 'AMT': 'much'; expected an amount"),
        (NONMEM, {"doses": ("dos->gut",)}, "no column 'dos'"),
        (NONMEM.replace("m\n", "x\n", 1), {"covariates": ("NAME",)}, "no column 'NAME'"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_dose_or_a_covariate_is_refused_at_its_place(tmp_path, text, options, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        table(tmp_path, text, **options)
