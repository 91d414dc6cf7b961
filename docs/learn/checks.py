"""Runs the cells of the pages in this folder without building the site: `python docs/learn/checks.py [PAGE …]`.

And finds the examples on the pages that are written as sessions of an interpreter, for their tests.
"""

from __future__ import annotations

import doctest
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CELL = re.compile(r"^```\{code-cell\}\n(?::[^\n]*\n)*(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(page: Path) -> doctest.DocTest:
    """All ``python`` blocks of a page as one session; everything else is blanked, so that line numbers stay right."""
    text = page.read_text()
    code = ["\n" * text[: block.start(1)].count("\n") + block.group(1) for block in BLOCK.finditer(text)]
    lines = [""] * (text.count("\n") + 1)
    for block in code:
        for number, line in enumerate(block.split("\n")):
            lines[number] = line or lines[number]
    return doctest.DocTestParser().get_doctest("\n".join(lines), {}, page.name, str(page), 0)


def run_cells(page: Path) -> int:
    """Runs a page's cells in one namespace, in its folder, and says how many there were; their errors are not caught."""
    text, names, count = page.read_text(), dict[str, Any](__name__=page.stem), 0
    dtype, folder = torch.get_default_dtype(), Path.cwd()
    sys.path.insert(0, str(HERE))  # the pages import from_scratch and drawing
    os.chdir(page.parent)
    try:
        for cell in CELL.finditer(text):
            above = "\n" * text[: cell.start(1)].count("\n")
            exec(compile(above + cell.group(1), str(page), "exec"), names)
            count += 1
    finally:
        os.chdir(folder)
        sys.path.remove(str(HERE))
        torch.set_default_dtype(dtype)
    return count


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]] or sorted(HERE.glob("*.md"))
    for page in pages:
        begun = time.process_time()
        print(
            f"{page.name}: {run_cells(page)} cells, {time.process_time() - begun:.0f} s of processor time", flush=True
        )
