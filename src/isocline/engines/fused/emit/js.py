"""A field and its solver as one ES module."""

from __future__ import annotations

import math
import re
from pathlib import Path
from string import Template

from isocline.engines.fused.emit.body import COMMON, Body, Dialect, array, constants, helpers
from isocline.engines.fused.emit.model import Model

CALLED = ("abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "atan")


def number(x: float) -> str:
    """As the source writes it.

    Example:
        >>> number(-0.5), number(math.inf)
        ('(-0.5)', 'Infinity')
    """
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "Infinity" if x > 0 else "(-Infinity)"
    return f"({x!r})" if math.copysign(1.0, x) < 0 else repr(x)


ERF = """// The error function: Abramowitz & Stegun 7.1.6 near 0, the continued fraction 7.1.14 beyond.
function erf(x) {
  const a = Math.abs(x);
  if (!(a < 6)) return a >= 6 ? Math.sign(x) : NaN;
  const scale = Math.exp(-a * a) / Math.sqrt(Math.PI);
  if (a < 2.5) {
    let term = a, sum = a;
    for (let n = 1; term > 1e-17 * sum; n++) sum += term *= 2 * a * a / (2 * n + 1);
    return Math.sign(x) * 2 * scale * sum;
  }
  let tail = a;
  for (let n = 60; n > 0; n--) tail = a + n / 2 / tail;
  return Math.sign(x) * (1 - scale / tail);
}"""
JS = Dialect(
    functions=COMMON
    | {name: f"Math.{name}({{0}})" for name in CALLED}
    | {
        "rsqrt": "1 / Math.sqrt({0})",
        "pow": "Math.pow({0}, {1})",
        "atan2": "Math.atan2({0}, {1})",
        "minimum": "Math.min({0}, {1})",
        "maximum": "Math.max({0}, {1})",
        "sigmoid": "1 / (1 + Math.exp(-{0}))",
        "softplus": "softplus({0})",
        "erf": "erf({0})",
    },
    helpers={
        "softplus": "const softplus = (x) => x > 20 ? x : Math.log1p(Math.exp(x));",
        "erf": ERF,
    },
    integer="let",
    real="let",
    array=lambda name, kind, count: f"const {name}",
    close=("[", "]"),
    number=number,
)


def to_js(model: Model) -> str:
    """The module."""
    scaled, inputs = model.coordinates, bool(model.further)
    key = "sign * ts[{0}]" if scaled is None else "sign * (ts[{0}] - ts[0]) / tau"
    values = {name: x if isinstance(x, int) else number(x) for name, x in model.numbers().items()} | {
        "method": model.method,
        "solver_order": model.solver.order,
        "about": "\n".join(f"// {line}" for line in model.about()),
        "states": model.size,
        "u_documented": f", u: {model.further} numbers" if inputs else "",
        "u_parameter": ", u" if inputs else "",
        "u_default": f", u = new Array({model.further}).fill(0)" if inputs else "",
        "constants": "\n".join(constants(model.leaves, JS, "w")),
        "helpers": "\n".join(helpers(model.program, JS)),
        "field": _field(model),
        "tables": _tables(model),
        "f": "field" if scaled is None else "inner",
        "unit": "" if scaled is None else " / tau",
        "key": key.format("seen"),
        "last_key": key.format("ts.length - 1"),
        "first_key": key.format("0") if scaled is None else "0",
        "end_time": "sign * t" if scaled is None else "ts[0] + sign * t * tau",
        "enter": "y0[d]" if scaled is None else "scaled(d, y0[d])",
        "leave": "x" if scaled is None else "unscaled(d, x)",
    }
    text = Template((Path(__file__).parent / "template.js").read_text(encoding="utf-8")).substitute(values)
    return re.sub(r"\n{3,}", "\n\n", text)


def _field(model: Model) -> str:
    program, scaled, u = model.program, model.coordinates, ", u" if model.further else ""
    name = "export function field" if scaled is None else "function inner"
    lines = [f"{name}(t, y{u}) {{", f"  const r = new Float64Array({program.rows}), dy = new Array({model.size});"]
    start = 0
    for source, first, count in program.inputs:
        if source == "t":
            lines.append(f"  r[{first}] = t;")
            continue
        value = "y[i]" if source == "y" else f"u[{start} + i]"
        start += 0 if source == "y" else count
        lines.append(f"  for (let i = 0; i < {count}; i++) {Body.at('r', first, 2)} = {value};")
    lines += [f"  {line}" for line in Body(program, JS, "w").lines()] + ["  return dy;", "}"]
    if scaled is None:
        return "\n".join(lines)
    arrays = [
        array("logs", "real", [str(int(x)) for x in scaled.logs], JS),
        array("mean", "real", list(map(repr, scaled.means)), JS),
        array("sd", "real", list(map(repr, scaled.sds)), JS),
    ]
    border = f"""
// The model's own states are (y - mean) / sd, or (log y - mean) / sd; its time is in units of tau.
const tau = {scaled.tau!r};
const scaled = (d, y) => ((logs[d] ? Math.log(y) : y) - mean[d]) / sd[d];
const unscaled = (d, x) => logs[d] ? Math.exp(x * sd[d] + mean[d]) : x * sd[d] + mean[d];

export function field(t, y{u}) {{
  const dx = inner(t, y.map((value, d) => scaled(d, value)){u});
  return dx.map((slope, d) => slope * sd[d] * (logs[d] ? y[d] : 1) / tau);
}}"""
    return "\n".join([*lines, *arrays, border])


def _tables(model: Model) -> str:
    out = []
    for name, rows in model.tables().items():
        text = ",\n  ".join("[" + ", ".join(map(repr, row)) + "]" for row in rows)
        out.append(f"const {name} = [\n  {text},\n];" if name in "AD" else f"const {name} = {text};")
    return "\n".join(out)
