"""docs/transforms.md: its examples print what they say, and its scripts run."""

import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
# In a process of its own, where types are not checked at run time: those checks would be traced too.
SCRIPT = """
import importlib.util, os, pathlib, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, "learn")
import checks
page = pathlib.Path("transforms.md").resolve()
test = checks.examples(page)
result = checks.doctest.DocTestRunner().run(test, clear_globs=False)
assert result.attempted > 15 and not result.failed, result
os.chdir(sys.argv[1])
ran = 0
for block in checks.BLOCK.findall(page.read_text()):
    if ">>>" in block:
        continue
    if "onnx" in block and not all(map(importlib.util.find_spec, ("onnxscript", "onnxruntime"))):
        print("the example with ONNX was skipped: onnxscript or onnxruntime is not installed")
        continue
    exec(block, test.globs)
    ran += 1
print(result.attempted, ran)
assert all(p.grad is not None for p in test.globs["model"].parameters())
"""


def test_its_examples_print_what_they_say_and_its_scripts_run(tmp_path):
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment = {**os.environ, **alone}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=DOCS,
        env=environment,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_the_machinery_it_names_is_all_there():
    page = (DOCS / "transforms.md").read_text()
    for name in (
        "torch.func",
        "torch.compile",
        "torch.export",
        "torch.onnx",
        "torch.autocast",
        "DistributedDataParallel",
    ):
        assert name in page
