"""`isocline fit` and what follows it, of equations whose series differ."""

import math

import pytest
from test_bad_input import call

from isocline.cli import main

MODEL = ("--equation", "dcentral = -k*central; conc = central/v; central(0) = 0", "--dose", "amt->central")
PARAMETERS = ("--parameter", "k = 0.3 > 0 per series unit 1/h", "--parameter", "v = 20 > 0 unit L")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a fit of five subjects, the last held out."""
    folder = tmp_path_factory.mktemp("people")
    lines = ["id,time,amt,conc"]
    for i, k in enumerate((0.15, 0.2, 0.22, 0.28, 0.18)):
        lines.append(f"{i},0,100,")
        lines += [f"{i},{t},0,{4 * math.exp(-k * t) + 0.05 * (-1) ** (i + t):.4f}" for t in (1, 2, 4, 8, 11)]
    (folder / "pk.csv").write_text("\n".join(lines))
    options = (*MODEL, *PARAMETERS, "--hold-out", "series:4", "--out", str(folder / "run"))
    with pytest.raises(SystemExit) as done:
        main(["fit", str(folder / "pk.csv"), *options])
    assert done.value.code == 0
    return folder / "run"


def test_a_fit_ends_with_scores_parameters_and_a_sentence(run, capsys):
    code, shown, _ = call(capsys, "show", run)
    assert code == 0
    for part in ("dose into central", "population model", "typical", "shrinkage", "held-out part"):
        assert part in shown
