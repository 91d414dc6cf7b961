"""`isocline predict`: a run's forecast as a CSV."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from isocline.cli import fail
from isocline.fit import UserError
from isocline.fit import predict as predict_run
from isocline.fit.run import write


def predict_command(run: Path, until: float | None, times: Path | None, start: Path | None, out: Path | None) -> int:
    """0 when every time was reached, 1 when a forecast could not go on; exits with 2 on bad input."""
    try:
        header, rows, warning = predict_run(run, until=until, times=times, start=start)
    except UserError as error:
        fail(str(error))
        return 2
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[f"{v:.8g}" if isinstance(v, float) else v for v in row] for row in rows])
    path = out or run / "prediction.csv"
    write(path, text.getvalue())
    print(f"{len(rows)} rows: {path}")
    if warning:
        print(f"isocline: {warning}; the rows up to there are written", file=sys.stderr)
        return 1
    return 0
