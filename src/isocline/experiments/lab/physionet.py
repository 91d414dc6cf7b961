"""Two days in intensive care, 4000 times: set a of the PhysioNet / Computing in Cardiology challenge of 2012.

I. Silva, G. Moody, D. Scott, L. Celi, R. Mark, Predicting in-hospital mortality of ICU patients (2012); A. Goldberger et al.,
PhysioBank, PhysioToolkit, and PhysioNet (2000). Open Data Commons Attribution License 1.0. Read from an archive of arrays,
or from the release itself (a text file a stay); both are checked by the same digest.
"""

from __future__ import annotations

import csv
import hashlib
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from isocline.experiments.lab.datasets import cache, locate
from isocline.experiments.lab.job import Job
from isocline.fit.errors import UserError
from isocline.fit.files import place

FOLDER = "irr_physionet2012"
ARRAYS = {
    "set_a.npz": "7cd9b1f0f650d17fb4f16c11c0cd6c5f37e2b819c206d83ec997a5429e052c7d",
    "outcomes_a.csv": "925749a529b8a036537b28de9eea55e16ee1c1ddb265119de866d5c1f4028045",
}
URL = "https://physionet.org/files/challenge-2012/1.0.0/"
RELEASE = ("set-a.tar.gz", "Outcomes-a.txt")
DIGEST = "394ba6bd2c5ac5b4e157ac7e6c038f4845995f6592a6aecf7b089926f85c9366"

STATIC = ("Age", "Gender", "Height", "ICUType")
SERIES = (
    *(
        "ALP",
        "ALT",
        "AST",
        "Albumin",
        "BUN",
        "Bilirubin",
        "Cholesterol",
        "Creatinine",
        "DiasABP",
        "FiO2",
        "GCS",
        "Glucose",
    ),
    *(
        "HCO3",
        "HCT",
        "HR",
        "K",
        "Lactate",
        "MAP",
        "MechVent",
        "Mg",
        "NIDiasABP",
        "NIMAP",
        "NISysABP",
        "Na",
        "PaCO2",
        "PaO2",
    ),
    *("Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT", "Urine", "WBC", "Weight", "pH"),
)
NAMES = STATIC + SERIES


@dataclass(frozen=True)
class Stays:
    """What was measured, a row a measurement, ordered by stay, time and variable.

    Attributes:
        record: (N,) int32, names of the stays, rising.
        static: (N, 4) float32, `STATIC`; −1 where unknown.
        count: (N,) int64, measurements of each stay.
        minute, param, value: (M,) uint16 since admission, uint8 into `SERIES`, float32 in the challenge's units.
        died: (N,) bool, in hospital.
    """

    record: np.ndarray
    static: np.ndarray
    count: np.ndarray
    minute: np.ndarray
    param: np.ndarray
    value: np.ndarray
    died: np.ndarray

    def digest(self) -> str:
        """Of everything, whichever form it came in."""
        made = hashlib.sha256()
        for array, kind in (
            *((self.record, "<i4"), (self.static, "<f4"), (self.count, "<i8")),
            *((self.minute, "<u2"), (self.param, "u1"), (self.value, "<f4"), (self.died, "u1")),
        ):
            made.update(np.ascontiguousarray(array.astype(kind)).tobytes())
        return made.hexdigest()

    def binned(self, hours: float = 1.0, until: float = 48.0) -> tuple[Tensor, Tensor]:
        """On a grid: means over what rounds to the same time.

        Args:
            hours: spacing.
            until: the last time.

        Returns:
            (T, N, 41) float32, 0 where nothing was measured, and the mask of what was, bool; channels `NAMES`, the static
            ones at time 0.
        """
        steps, channels, stays = round(until / hours) + 1, len(NAMES), len(self.record)
        stay = np.repeat(np.arange(stays), self.count)
        row = np.rint(self.minute / (60 * hours)).astype(np.int64).clip(0, steps - 1)
        place = (row * stays + stay) * channels + len(STATIC) + self.param
        size = steps * stays * channels
        number = np.bincount(place, minlength=size)
        total = np.bincount(place, weights=self.value.astype(np.float64), minlength=size)
        x, mask = (
            (total / np.maximum(number, 1)).reshape(steps, stays, channels),
            number.reshape(steps, stays, channels) > 0,
        )
        x[0, :, : len(STATIC)], mask[0, :, : len(STATIC)] = self.static, True
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(mask)


def physionet(job: Job) -> Stays:
    """The 4000 stays of set a: found where data sets are looked for, else downloaded from physionet.org.

    Accepted are the folder `irr_physionet2012` (set_a.npz, outcomes_a.csv), and set-a.tar.gz or the unpacked folder set-a
    beside Outcomes-a.txt, as released.

    Raises:
        UserError: where they are nowhere, or are not those 4000.
    """
    folders = [Path(f) for f in (job.data, os.environ.get("ISOCLINE_DATA"), cache()) if f]
    if any((folder / FOLDER / "set_a.npz").exists() for folder in folders):
        found = read_arrays(*(locate(job, f"{FOLDER}/{name}", sha256) for name, sha256 in ARRAYS.items()))
    else:
        found = read_release(*_release(folders))
    if found.digest() != DIGEST:
        raise UserError(
            f"set a: {len(found.record)} stays that are not those of the release 1.0.0; get {URL}{RELEASE[0]}"
        )
    return found


def read_arrays(arrays: Path, outcomes: Path) -> Stays:
    """From set_a.npz and outcomes_a.csv."""
    with np.load(arrays) as kept:
        if tuple(kept["param_names"]) != SERIES or tuple(kept["static_names"]) != STATIC:
            raise UserError(f"{arrays}: other variables than those of the challenge")
        count = np.diff(kept["offset"]).astype(np.int64)
        columns = kept["minute"], kept["param"], kept["value"]
        return _stays(kept["record_id"], kept["static"], count, *columns, _deaths(outcomes))


def read_release(series: Path, outcomes: Path) -> Stays:
    """From the folder set-a or set-a.tar.gz (files NNNNNN.txt of lines hh:mm,variable,value) and Outcomes-a.txt.

    Raises:
        UserError: naming the file and line that cannot be read.
    """
    numbers = {name: i for i, name in enumerate(SERIES)}
    records, statics, counts = [], [], []
    minutes: list[int] = []
    params: list[int] = []
    values: list[float] = []
    for name, text in sorted(_texts(series)):
        static, before = dict.fromkeys(STATIC, -1.0), len(values)
        for number, line in enumerate(text.splitlines()[1:], 2):
            try:
                clock, variable, value = line.split(",")
                hour, minute = clock.split(":")
                if variable in numbers:
                    params.append(numbers[variable])
                    minutes.append(60 * int(hour) + int(minute))
                    values.append(float(value))
                elif variable in static:
                    static[variable] = float(value)
                elif variable not in ("RecordID", ""):
                    raise ValueError(f"no variable of the challenge: {variable!r}")
            except ValueError as error:
                raise UserError(f"{name}, line {number}: {line!r}: {error}") from error
        records.append(int(Path(name).stem))
        statics.append([static[one] for one in STATIC])
        counts.append(len(values) - before)
    if not records:
        raise UserError(f"{series}: no files NNNNNN.txt in it")
    columns = np.array(minutes, np.uint16), np.array(params, np.uint8), np.array(values, np.float32)
    return _stays(np.array(records), np.array(statics), np.array(counts), *columns, _deaths(outcomes))


def _stays(
    record: np.ndarray,
    static: np.ndarray,
    count: np.ndarray,
    minute: np.ndarray,
    param: np.ndarray,
    value: np.ndarray,
    deaths: dict[int, bool],
) -> Stays:
    """In order: two forms that differ in the order of variables within a minute become the same."""
    missing = [int(one) for one in record if int(one) not in deaths]
    if missing:
        raise UserError(f"stay {missing[0]}: no outcome")
    stay = np.repeat(np.arange(len(record)), count)
    order = np.lexsort((value, param, minute, stay))
    died = np.array([deaths[int(one)] for one in record])
    return Stays(
        record.astype(np.int32), static.astype(np.float32), count, minute[order], param[order], value[order], died
    )


def _deaths(outcomes: Path) -> dict[int, bool]:
    """By stay: the first and the last column."""
    with outcomes.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))[1:]
    return {int(row[0]): int(row[-1]) == 1 for row in rows if row}


def _texts(series: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of the files of the stays."""
    if series.is_dir():
        yield from (
            (path.name, path.read_text(encoding="utf-8")) for path in series.glob("*.txt") if path.stem.isdigit()
        )
        return
    with tarfile.open(series) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None and Path(member.name).stem.isdigit():
                yield Path(member.name).name, file.read().decode("utf-8")


def _release(folders: Iterable[Path]) -> tuple[Path, Path]:
    """Where the release is; downloads it where it is nowhere."""
    for folder in folders:
        for at in (folder, folder / FOLDER, folder / "physionet2012"):
            for series in (at / "set-a", at / RELEASE[0]):
                if series.exists() and (at / RELEASE[1]).exists():
                    return series, at / RELEASE[1]
    target = cache() / "physionet2012"
    target.mkdir(parents=True, exist_ok=True)
    for name in RELEASE:
        try:
            with urllib.request.urlopen(URL + name, timeout=60) as answer:
                content = answer.read()
        except (urllib.error.URLError, OSError) as error:
            raise UserError(
                f"PhysioNet 2012: found nowhere, and {URL}{name} could not be had ({getattr(error, 'reason', error)}). Give "
                f"the folder that holds set-a.tar.gz and Outcomes-a.txt with --data"
            ) from error
        place(target / name, lambda aside, content=content: aside.write_bytes(content))
    return target / RELEASE[0], target / RELEASE[1]
