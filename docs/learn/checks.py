"""Runs every example on the pages of this folder and compares what it prints: `python docs/learn/checks.py`."""

import doctest
import re
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(page: Path) -> doctest.DocTest:
    """All ``python`` blocks of a page as one session; everything else is blanked, so that line numbers stay right."""
    text = page.read_text()
    code = ["\n" * text[: block.start(1)].count("\n") + block.group(1) for block in BLOCK.finditer(text)]
    lines = [""] * (text.count("\n") + 1)
    for block in code:
        for number, line in enumerate(block.split("\n")):
            lines[number] = line or lines[number]
    return doctest.DocTestParser().get_doctest("\n".join(lines), {}, page.name, str(page), 0)


def run(page: Path) -> doctest.TestResults:
    dtype = torch.get_default_dtype()
    sys.path.insert(0, str(HERE))  # the pages import from_scratch
    try:
        return doctest.DocTestRunner().run(examples(page))
    finally:
        sys.path.remove(str(HERE))
        torch.set_default_dtype(dtype)


if __name__ == "__main__":
    failed = 0
    for page in sorted(HERE.glob("*.md")):
        result = run(page)
        failed += result.failed
        print(f"{page.name}: {result.attempted - result.failed} of {result.attempted} examples print what they should")
    sys.exit(failed > 0)
