"""`isocline predict`: a run's forecast as a CSV."""

from __future__ import annotations

import csv
import io
import sys
import warnings
from pathlib import Path

from isocline.cli import fail
from isocline.fit import UserError
from isocline.fit import predict as predict_run
from isocline.fit.files import write


def predict_command(
    run: Path,
    until: str | None,
    times: Path | None,
    start: Path | None,
    bands: bool,
    out: Path | None,
    inputs: Path | None = None,
) -> int:
    """0 when every time was reached, 1 when a forecast could not go on; exits with 2 on bad input."""
    path = out or run / "prediction.csv"
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            header, rows, lost = predict_run(run, until=until, times=times, start=start, bands=bands, inputs=inputs)
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"--out {path}: expected a file in a folder that exists")
    except UserError as error:
        fail(str(error))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[f"{v:.8g}" if isinstance(v, float) else v for v in row] for row in rows])
    write(path, text.getvalue())
    print(f"{len(rows)} rows: {path}")
    for warning in told:
        print(f"isocline: {warning.message}", file=sys.stderr)
    for sentence in lost:
        print(f"isocline: {sentence}; the rows up to there are written", file=sys.stderr)
    return 1 if lost else 0
