"""Imports point one way, and the core needs torch alone."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest

from isocline import _types

SOURCE = Path(__file__).parents[1] / "src" / "isocline"

# A package may import those of lower layers and itself.
LAYERS = [
    {"_types", "_version"},
    {"autocast", "field", "second_order", "problems", "quadrature", "split"},
    {"control", "inputs", "times"},
    {"solvers", "solution", "events"},
    {"engines"},
    {"gradients"},
    {"fusing", "in_graph", "pieces", "doses", "save", "transforms", "unrolled"},
    {"alike"},
    {"solve"},
    {"nn", "audit", "cite", "compat", "export", "parallel", "steady", "stepper"},
    {"equations"},
    {"fit", "report"},
    {"experiments"},
    {"bench"},
    {"cli"},
]
CORE = set().union(*LAYERS[:10])
# Units of one layer that may use each other, in this direction only.
ALLOWED_WITHIN = {
    ("fit", "report"),
    ("audit", "nn"),
    ("doses", "pieces"),
    ("unrolled", "transforms"),
    ("fusing", "transforms"),
}


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level > 0:
                found.append((node.lineno, "." * node.level + (node.module or "")))
            elif node.module == "isocline":
                found += [(node.lineno, f"isocline.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, node.module or ""))
    return found


def layer(unit: str) -> int:
    return next(i for i, units in enumerate(LAYERS) if unit in units)


def violations(root: Path) -> list[str]:
    wrong = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        unit = parts[0]
        if unit in ("__init__", "__main__"):
            continue
        for line, name in imports(path):
            where = f"{'/'.join(parts)}.py:{line} imports {name}"
            package, _, rest = name.partition(".")
            if not package:
                wrong.append(f"{where}: relative import, write the full name")
            elif package == "isocline":
                target = rest.split(".")[0]
                if target == unit:
                    continue
                if target not in set().union(*LAYERS):
                    wrong.append(f"{where}: go to the module that defines it")
                elif layer(target) >= layer(unit) and (unit, target) not in ALLOWED_WITHIN:
                    wrong.append(f"{where}: points up")
            elif unit in CORE and package not in sys.stdlib_module_names | {"torch"} and unit != "_types":
                wrong.append(f"{where}: the core needs torch alone")
    return wrong


def test_imports_point_one_way():
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("field.py", "from isocline.solve import solve", "points up"),
        ("control/pid.py", "import numpy", "torch alone"),
        ("solvers/x.py", "def f():\n    from isocline.engines import eager", "points up"),
        ("report/html.py", "import isocline.fit.loop", "points up"),
        ("nn/x.py", "from isocline import solve_it", "go to the module"),
        ("gradients/x.py", "import isocline", "go to the module"),
        ("solvers/x.py", "from .tableau import ButcherTableau", "relative import"),
        ("audit.py", "try:\n    import scipy.integrate\nexcept ImportError:\n    pass", "torch alone"),
        ("problems/x.py", "from isocline.field import flatten", "points up"),
    ],
)
def test_the_check_finds_a_violation(tmp_path, file, line, says):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    (wrong,) = violations(tmp_path)
    assert says in wrong


def test_the_check_lets_pass_what_is_allowed(tmp_path):
    for file, lines in {
        "solve.py": "import math\nimport torch.nn\nfrom isocline.engines import eager\nfrom isocline.field import x",
        "fit/loop.py": "import pandas\nfrom isocline.fit.reading.table import read\nfrom isocline import report, solve",
        "cli/fit.py": "from isocline.experiments import spiral",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(lines)
    assert violations(tmp_path) == []


def test_the_core_works_with_torch_alone():
    """numpy too is kept away: a torch without it is a legitimate installation."""
    others = ["numpy", "jaxtyping", "beartype", "scipy", "pandas", "narwhals", "matplotlib", "rich", "pydantic"]
    others += ["jinja2", "cyclopts", "safetensors", "PIL", "hypothesis", "pytest", "torchdiffeq"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({others}))  # None there makes an import fail
import torch, isocline
from isocline._types import Float, Tensor
k = torch.tensor(1.0, requires_grad=True)
ys = isocline.solve(lambda t, y: -k * y, torch.ones(1), [0.0, 1.0]).ys
ys[-1].backward()
print(ys[-1].item(), k.grad.item(), Float[Tensor, "batch state"] is Tensor)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    end, slope, stand_in = done.stdout.split()
    assert float(end) == pytest.approx(math.exp(-1), rel=1e-4)
    assert float(slope) == pytest.approx(-math.exp(-1), rel=1e-4)
    assert stand_in == "True"


def test_the_core_uses_jaxtyping_where_it_is_installed():
    assert _types.Float is jaxtyping.Float
