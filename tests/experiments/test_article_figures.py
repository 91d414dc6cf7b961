"""The article's figures: their numbers are what the text claims."""

import pytest


def test_the_figures_show_what_they_say(quick):
    record = quick("article-figures")
    order, chain, meaning = (row["ours"] for row in record["rows"])
    assert order == pytest.approx(1.0, abs=0.01)  # the next term of the error is h times the first: 0.003 of it
    assert chain < 1e-14
    assert meaning < 1e-7  # central differences of 1e-4: 1e-8 of the third derivative, 1e-13/1e-4 of the tolerance
    assert len(record["pictures"]) == 4
