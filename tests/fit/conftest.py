"""What several files of tests read tables with."""

import pytest

from isocline.fit.reading.table import read_table


@pytest.fixture
def read(tmp_path):
    def read_(text, **roles):
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        return read_table(path, **roles)

    return read_
