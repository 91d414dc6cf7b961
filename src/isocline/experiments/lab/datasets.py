"""Data sets that are measured: found in a folder, or downloaded once and checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

import torch
from torch import Tensor

from isocline.experiments.lab.job import Job
from isocline.fit.errors import UserError
from isocline.fit.files import place


def cache() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/isocline`, else `~/.cache/isocline`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isocline"


def locate(job: Job, name: str, sha256: str, urls: tuple[str, ...] = (), uncompressed: bool = False) -> Path:
    """The path of a file of a data set.

    Looked for in the folder given with --data, then in that of the environment variable ISOCLINE_DATA, then among earlier
    downloads; else downloaded. Whatever is found is checked.

    Args:
        job: of the experiment.
        name: relative to the folder, "mnist/train-images-idx3-ubyte.gz".
        sha256: of the file, or where `uncompressed`, of what it unpacks to.
        urls: where it can be had, tried in turn.
        uncompressed: the file is a gzip and its wrapping does not count.

    Raises:
        UserError: where it is nowhere, or is not the file expected.
    """
    folders = [job.data, os.environ.get("ISOCLINE_DATA"), cache()]
    tried = [Path(folder) / name for folder in folders if folder]
    for path in tried:
        if path.exists():
            check(path.read_bytes(), sha256, uncompressed, str(path))
            return path
    reasons = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                content = answer.read()
        except (urllib.error.URLError, OSError) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', error)}")
            continue
        check(content, sha256, uncompressed, url)
        path = cache() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        place(path, lambda aside, content=content: aside.write_bytes(content))
        return path
    looked = ", ".join(str(path) for path in tried)
    could = f"; it could not be downloaded ({'; '.join(reasons)})" if reasons else "; it cannot be downloaded"
    raise UserError(f"{name}: not at {looked}{could}. Give the folder that holds it with --data")


def check(content: bytes, sha256: str, uncompressed: bool, where: str) -> None:
    """UserError where the content is not the one expected."""
    try:
        found = hashlib.sha256(gzip.decompress(content) if uncompressed else content).hexdigest()
    except (OSError, EOFError) as error:
        raise UserError(f"{where}: not a whole gzip file ({error}); delete it to download it again") from error
    if found != sha256:
        raise UserError(f"{where}: its sha256 is {found}, expected {sha256}; delete it to download it again")


MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist(job: Job) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Handwritten digits (LeCun, Cortes & Burges): training images and labels, test images and labels.

    Returns:
        (60000, 28, 28) uint8, (60000,) int64, (10000, 28, 28) uint8, (10000,) int64.
    """
    out = []
    for name, sha256 in MNIST_FILES.items():
        raw = gzip.decompress(locate(job, f"mnist/{name}", sha256, (MNIST + name,), uncompressed=True).read_bytes())
        offset, shape = (16, (-1, 28, 28)) if "images" in name else (8, (-1,))
        values = torch.frombuffer(bytearray(raw[offset:]), dtype=torch.uint8).reshape(shape)
        out.append(values if "images" in name else values.long())
    return out[0], out[1], out[2], out[3]
