"""Tables of the UCI repository as density estimation sees them: continuous columns, standardised, split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isocline.experiments.lab.datasets import locate
from isocline.experiments.lab.job import Job

FILES = {
    "protein": "33e89f221a828ab66e89e7393d351db316fadb354fdfc44ecb01a9d82206b34a",
    "parkinsons": "4a25af193f25710531c56d25f1fdd16002b62c6bbce620ed5f97c3a64bd0d6e4",
}
DISTINCT = 500  # a column with fewer different values is no density: its likelihood has no bound
CORRELATED = 0.98  # of two columns more alike than this one is left out, as in the preparation of MAF's tables


@dataclass(frozen=True)
class Table:
    """Rows that are independent draws, in standard deviations of the training part.

    Attributes:
        train, validation, test: (rows, D) float32: eight, one and one tenth.
        columns: which of the file's were kept.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    columns: tuple[int, ...]


def uci(job: Job, name: str) -> Table:
    """A table, split by the job's seed."""
    with np.load(locate(job, f"tab_uci/{name}.npz", FILES[name])) as file:
        return prepared(torch.from_numpy(file["data"]).double(), job.draw_seed("split", name))


def prepared(data: Tensor, seed: int) -> Table:
    """Leaves out columns that are discrete or double, shuffles the rows, splits and standardises.

    Example:
        >>> x = torch.randn(1000, 1, dtype=torch.float64)
        >>> table = prepared(torch.cat([x, 2 * x, x.round(), torch.randn(1000, 1)], 1), seed=0)
        >>> table.columns, table.train.shape
        ((0, 3), torch.Size([800, 2]))
    """
    columns: list[int] = []
    correlation = torch.corrcoef(data.T).abs()
    for i in range(data.shape[1]):
        enough = len(data[:, i].unique()) >= DISTINCT
        if enough and all(correlation[i, j] < CORRELATED for j in columns):
            columns.append(i)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    rows, tenth = data[order][:, columns], len(data) // 10
    train, validation, test = rows[: -2 * tenth], rows[-2 * tenth : -tenth], rows[-tenth:]
    mean, deviation = train.mean(0), train.std(0)
    parts = [((part - mean) / deviation).float() for part in (train, validation, test)]
    return Table(parts[0], parts[1], parts[2], tuple(columns))
