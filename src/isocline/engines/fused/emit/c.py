"""A field and its solver as one C99 file."""

from __future__ import annotations

import math
import re
from pathlib import Path
from string import Template

import torch

from isocline.engines.fused.emit.body import COMMON, Body, Dialect, array, constants, helpers
from isocline.engines.fused.emit.model import Model

CALLED = ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh", "atan", "erf")


def number(x: float) -> str:
    """As the source writes it, in the type `real`.

    Example:
        >>> number(0.5), number(-math.inf)
        ('ISO_R(0.5)', '-(iso_real)INFINITY')
    """
    if math.isnan(x):
        return "(iso_real)NAN"
    if math.isinf(x):
        return "(iso_real)INFINITY" if x > 0 else "-(iso_real)INFINITY"
    return f"ISO_R({x!r})"


def _helper(name: str, parameters: str, value: str) -> str:
    return f"static iso_real iso_{name}({parameters}) {{ return {value}; }}"


ONE, TWO = "iso_real x", "iso_real x, iso_real y"
C = Dialect(
    functions=COMMON
    | {name: f"ISO_FN({name})({{0}})" for name in CALLED}
    | {
        "abs": "ISO_FN(fabs)({0})",
        "rsqrt": "1 / ISO_FN(sqrt)({0})",
        "pow": "ISO_FN(pow)({0}, {1})",
        "atan2": "ISO_FN(atan2)({0}, {1})",
        "sign": "iso_sign({0})",
        "sigmoid": "iso_sigmoid({0})",
        "softplus": "iso_softplus({0})",
        "minimum": "iso_minimum({0}, {1})",
        "maximum": "iso_maximum({0}, {1})",
    },
    helpers={
        "sign": _helper("sign", ONE, "x > 0 ? 1 : x < 0 ? -1 : x"),
        "sigmoid": _helper("sigmoid", ONE, "1 / (1 + ISO_FN(exp)(-x))"),
        "softplus": _helper("softplus", ONE, "x > 20 ? x : ISO_FN(log1p)(ISO_FN(exp)(x))"),
        "minimum": _helper("minimum", TWO, "x < y || x != x ? x : y"),
        "maximum": _helper("maximum", TWO, "x > y || x != x ? x : y"),
    },
    integer="int",
    real="iso_real",
    array=lambda name, kind, count: f"static const {kind.replace('real', 'iso_real')} {name}[{count}]",
    close=("{", "}"),
    number=number,
)


def to_c(model: Model, prefix: str) -> str:
    """The file.

    Args:
        model: what to write.
        prefix: of all names in it.

    Raises:
        ValueError: where the prefix is no name in C.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", prefix, re.ASCII):
        raise ValueError(f"prefix={prefix!r}, expected a name such as 'model': letters, digits, underscores")
    inputs, scaled = bool(model.further), model.coordinates
    single = model.dtype == torch.float32
    values = {name: _double(x) for name, x in model.numbers().items()} | {
        "method": model.method,
        "solver_order": model.solver.order,
        "states": model.size,
        "example": ", ".join(["1"] * min(model.size, 3)) + (", …" if model.size > 3 else ""),
        "inputs": f", ISO_INPUTS = {model.further}" if inputs else "",
        "u_parameter": ", const iso_real u[ISO_INPUTS]" if inputs else "",
        "u_argument": ", u" if inputs else "",
        "u_example": ", u[ISO_INPUTS] = {0}" if inputs else "",
        "precision": "single" if single else "double",
        "instead": "double" if single else "single",
        "other": "DOUBLE" if single else "FLOAT",
        "single": int(single),
        "constants": "\n".join(constants(model.leaves, C, "iso_w")),
        "helpers": "\n".join(helpers(model.program, C)),
        "field": _field(model),
        "tables": _tables(model),
        "f": "iso_field" if scaled is None else "iso_model",
    }
    for name in ("step", "first", "min", "max"):
        option = "o.step" if name == "step" else f"o.{name}_step"
        values[f"{name}_length"] = option if scaled is None else f"{option} / iso_tau"
    key = "sign * ts[{0}]" if scaled is None else "sign * (ts[{0}] - ts[0]) / iso_tau"
    values |= {"key": key.format("seen"), "last_key": key.format("count - 1")}
    values |= {"first_key": key.format("0") if scaled is None else "0"}
    values |= {"end_time": "sign * t" if scaled is None else "ts[0] + sign * t * iso_tau"}
    values |= {"enter": "y0[d]" if scaled is None else "iso_scaled(d, y0[d])"}
    values |= {"leave": "x" if scaled is None else "iso_unscaled(d, x)"}
    text = Template((Path(__file__).parent / "template.c").read_text(encoding="utf-8")).substitute(values)
    text = re.sub(r"\n{3,}", "\n\n", text)
    text = re.sub(r"\bISO_", f"{prefix.upper()}_", re.sub(r"\biso([_.])", rf"{prefix}\1", text))
    return text.replace("$about", "\n   ".join(model.about()))


def _double(x: float) -> str:
    return str(x) if isinstance(x, int) else "HUGE_VAL" if math.isinf(x) else repr(x)


def _field(model: Model) -> str:
    """The function, and where the model has coordinates of its own, what leads there and back."""
    program, scaled = model.program, model.coordinates
    further = ", const iso_real u[ISO_INPUTS]" if model.further else ""
    name = "void iso_field" if scaled is None else "static void iso_model"
    arguments = "iso_real t, const iso_real y[ISO_STATES], iso_real dy[ISO_STATES]"
    lines = [f"{name}({arguments}{further}) {{", f"  iso_real r[{program.rows}];"]
    at = {"t": "t", "y": "y[i]"}
    start = 0
    for source, first, count in program.inputs:
        value = at.get(source) or (f"u[{start} + i]" if start else "u[i]")
        start += 0 if source in at else count
        body = Body(program, C, "iso_w")
        if source == "t":
            lines.append(f"  r[{first}] = t;")
        else:
            lines.append(f"  for (int i = 0; i < {count}; i++) {body.at('r', first, 2)} = {value};")
    lines += [f"  {line}" for line in Body(program, C, "iso_w").lines()] + ["}"]
    return "\n".join(lines if scaled is None else [*lines, _border(model)])


def _border(model: Model) -> str:
    """From the user's units to the model's and back."""
    scaled = model.coordinates
    assert scaled is not None
    further, handed = (", const iso_real u[ISO_INPUTS]", ", u") if model.further else ("", "")
    tables = {"logs": [str(int(x)) for x in scaled.logs], "mean": map(repr, scaled.means), "sd": map(repr, scaled.sds)}
    kinds = {"logs": "int"}
    arrays = "\n".join(array(f"iso_{name}", kinds.get(name, "real"), list(x), C) for name, x in tables.items())
    return f"""
/* The model's own states are (y - mean) / sd, or (log y - mean) / sd; its time is in units of tau. */
{arrays}
static const double iso_tau = {scaled.tau!r};

static iso_real iso_scaled(int d, iso_real y) {{
  return ((iso_logs[d] ? ISO_FN(log)(y) : y) - iso_mean[d]) / iso_sd[d];
}}

static iso_real iso_unscaled(int d, iso_real x) {{
  const iso_real y = x * iso_sd[d] + iso_mean[d];
  return iso_logs[d] ? ISO_FN(exp)(y) : y;
}}

void iso_field(iso_real t, const iso_real y[ISO_STATES], iso_real dy[ISO_STATES]{further}) {{
  iso_real x[ISO_STATES];
  for (int d = 0; d < ISO_STATES; d++) x[d] = iso_scaled(d, y[d]);
  iso_model(t, x, dy{handed});
  for (int d = 0; d < ISO_STATES; d++) dy[d] *= iso_sd[d] * (iso_logs[d] ? y[d] : 1) / ISO_R(iso_tau);
}}"""


def _tables(model: Model) -> str:
    tables, out = model.tables(), []
    for name, width in (("A", "STAGES"), ("D", "DEGREE")):
        rows = ",\n".join(f"  {{{', '.join(map(repr, row))}}}" for row in tables[name])
        out.append(f"static const iso_real iso_{name.lower()}[ISO_STAGES][ISO_{width}] = {{\n{rows}\n}};")
    kinds = {"B": "real", "C": "double", "E": "real"}
    return "\n".join(
        [*out, *(array(f"iso_{x.lower()}", k, list(map(repr, tables[x][0])), C) for x, k in kinds.items())]
    )
