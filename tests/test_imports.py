"""Imports point one way, and the core needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "isocline"

# A package may import those of lower layers and itself.
LAYERS = [
    {"_types", "_version"},
    {"field"},
    {"control"},
    {"solvers", "solution"},
    {"engines"},
    {"gradients"},
    {"solve"},
    {"nn", "audit", "compat", "problems"},
    {"fit", "report"},
    {"experiments"},
    {"cli"},
]
CORE = set().union(*LAYERS[:8])
# Fields within one layer that may use each other, in this direction only.
ALLOWED_WITHIN = {("fit", "report"), ("audit", "nn")}


def top_level_imports(path: Path) -> list[str]:
    return [name for _, name in imports(path)]


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "isocline":
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
            if package == "isocline":
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
    ],
)
def test_the_check_finds_a_violation(tmp_path, file, line, says):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line)
    (wrong,) = violations(tmp_path)
    assert says in wrong


def test_the_core_imports_without_any_other_package():
    blocked = [
        "jaxtyping",
        "beartype",
        "numpy",
        "pandas",
        "matplotlib",
        "scipy",
        "rich",
        "pydantic",
        "jinja2",
        "cyclopts",
    ]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({[b for b in blocked if b != "numpy"]}, None))
import torch, isocline
print(isocline.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0]).ys[-1].item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout) - 0.3679) < 1e-3
