"""Exported sources: compiled and run, their fields are the fields and their solves the eager engine's."""

import ctypes
import json
import shutil
import subprocess

import pytest
import torch
from fused_fields import FIELDS, Field
from torch import nn

import isocline as ic
from isocline.engines.fused.emit.body import shortest
from isocline.engines.fused.emit.js import ERF
from isocline.nn import MLP
from isocline.solvers import Solver
from isocline.solvers.runge_kutta import ExplicitRungeKutta

F64 = torch.float64
CC, NODE = shutil.which("cc") or shutil.which("gcc"), shutil.which("node")
with_cc = pytest.mark.skipif(CC is None, reason="no C compiler found (cc or gcc)")
with_node = pytest.mark.skipif(NODE is None, reason="no node found to run JavaScript")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror"]
EXPLICIT = sorted(
    name
    for name, cls in Solver.registry.items()
    if issubclass(cls, ExplicitRungeKutta) and not cls.wants_pair and not cls().tableau.extra_c
)


class Options(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_double) for name in ("rtol", "atol", "step", "first_step", "min_step", "max_step")),
        ("max_steps", ctypes.c_long),
    ]


class Statistics(ctypes.Structure):
    _fields_ = [("t", ctypes.c_double), *((name, ctypes.c_long) for name in ("accepted", "rejected", "evaluations"))]


class Compiled:
    """An exported file as a library."""

    def __init__(self, source, folder, dtype, prefix="model", flags=()):
        self.real = {torch.float32: ctypes.c_float, F64: ctypes.c_double}[dtype]
        self.dtype, self.prefix = dtype, prefix
        path = folder / f"{prefix}.c"
        path.write_text(source)
        library = path.with_suffix(".so")
        done = subprocess.run(
            [CC, *STRICT, "-O1", *flags, "-shared", "-fPIC", path, "-o", library, "-lm"], capture_output=True, text=True
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        self.native = ctypes.CDLL(str(library))

    def numbers(self, values):
        return (self.real * max(1, len(values)))(*values)

    def field(self, t, y, *u):
        dy = self.numbers([0.0] * len(y))
        getattr(self.native, f"{self.prefix}_field")(self.real(t), self.numbers(y), dy, *map(self.numbers, u))
        return torch.tensor(list(dy), dtype=self.dtype)

    def solve(self, y0, ts, *u, **options):
        defaults = getattr(self.native, f"{self.prefix}_defaults")
        defaults.restype = Options
        chosen, statistics = defaults(), Statistics()
        for name, value in options.items():
            setattr(chosen, name, value)
        ys = self.numbers([0.0] * (len(y0) * len(ts)))
        status = getattr(self.native, f"{self.prefix}_solve")(
            self.numbers(y0), (ctypes.c_double * len(ts))(*ts), len(ts), ys, *map(self.numbers, u),
            ctypes.byref(chosen), ctypes.byref(statistics),
        )  # fmt: skip
        return status, torch.tensor(list(ys), dtype=self.dtype).view(len(ts), -1), statistics


def in_node(source, folder, code):
    """What `code` says of the module `m`, as JSON."""
    (folder / "model.mjs").write_text(source)
    text = f'import * as m from "./model.mjs";\nconst show = (x) => JSON.stringify(x, (_, v) => v !== v ? "nan" : v);\nconsole.log(show({code}));'
    (folder / "run.mjs").write_text(text)
    done = subprocess.run([NODE, folder / "run.mjs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.replace('"nan"', "NaN"))


def points(count=7, size=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, dtype=F64, generator=generator), torch.randn(count, size, dtype=F64, generator=generator)


# ---- fields -------------------------------------------------------------------------------------------------------
@with_cc
@pytest.mark.parametrize("name", FIELDS)
def test_fields_in_c(name, tmp_path):
    field, (times, states) = Field(FIELDS[name]), points()
    source = ic.export.to_c(field, states[0])
    want = field(times[:, None], states).detach()
    for dtype, flags, tolerance in ((F64, [], 1e-12), (torch.float32, ["-DMODEL_FLOAT"], 2e-4)):
        (folder := tmp_path / str(dtype)).mkdir()
        compiled = Compiled(source, folder, dtype, flags=flags)
        got = torch.stack([compiled.field(t, y) for t, y in zip(times.tolist(), states.tolist(), strict=True)])
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance * (1 + float(want.abs().max())))


@with_node
@pytest.mark.parametrize("name", FIELDS)
def test_fields_in_javascript(name, tmp_path):
    field, (times, states) = Field(FIELDS[name]), points()
    source = ic.export.to_js(field, states[0])
    got = in_node(source, tmp_path, f"{states.tolist()}.map((y, i) => m.field({times.tolist()}[i], y))")
    want = field(times[:, None], states).detach()
    torch.testing.assert_close(
        torch.tensor(got, dtype=F64), want, rtol=1e-12, atol=1e-12 * (1 + float(want.abs().max()))
    )


SYSTEMS = {
    "Lorenz": ic.problems.lorenz,
    "Lotka–Volterra": ic.problems.lotka_volterra,
    "Van der Pol": ic.problems.van_der_pol,
}


@with_cc
@pytest.mark.parametrize("name", SYSTEMS)
def test_named_systems(name, tmp_path):
    problem = SYSTEMS[name]()
    labels = [f"{a} [{b}]" if b else a for a, b in zip(problem.labels, problem.units, strict=True)]
    source = ic.export.to_c(problem.field, problem.y0, name=problem.name, states=labels, prefix="system")
    assert all(label in source for label in labels)
    compiled, ts = Compiled(source, tmp_path, F64, "system"), torch.linspace(problem.t0, problem.t0 + 2.0, 9)
    status, ys, _ = compiled.solve(problem.y0.tolist(), ts.tolist())
    want = ic.solve(problem.field, problem.y0[None], ts, batching="per_sample").ys[:, 0]
    assert status == 0
    torch.testing.assert_close(ys, want, rtol=1e-9, atol=1e-9)


def test_special_numbers():
    with pytest.raises(ValueError, match="constant of the field is nan"):
        shortest(float("nan"))
    for dtype in (torch.float32, F64):
        x = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=dtype) * 1e-7
        back = torch.tensor([float(shortest(v, dtype != F64)) for v in x.tolist()], dtype=F64).to(dtype)
        assert torch.equal(x, back)


@with_node
def test_the_error_function(tmp_path):
    x = [*torch.linspace(-7, 7, 2801, dtype=F64).tolist(), 1e-300, -0.0]
    got = torch.tensor(in_node(f"{ERF}\nexport {{ erf }};", tmp_path, f"{x}.map(m.erf)"), dtype=F64)
    torch.testing.assert_close(got, torch.erf(torch.tensor(x, dtype=F64)), rtol=4e-15, atol=0)
    assert in_node(f"{ERF}\nexport {{ erf }};", tmp_path, "[m.erf(Infinity), m.erf(-Infinity)]") == [1, -1]


# ---- solves -------------------------------------------------------------------------------------------------------
class Net(nn.Module):
    def __init__(self, dtype=F64):
        super().__init__()
        self.mlp = MLP((2, 16, 2), seed=3, dtype=dtype)

    def forward(self, t, y, a):
        return (3 * self.mlp(t, y) + torch.sin(3 * t)) * a


TS = torch.linspace(0, 3, 11, dtype=F64)
WAYS = [(name, {"step": 0.07}) for name in EXPLICIT]
FINE, COARSE = {"rtol": 1e-5, "atol": 1e-7}, {"rtol": 1e-3, "atol": 1e-5}  # for methods of order 2 the steps are many
WAYS += [(n, FINE if Solver.named(n).order > 2 else COARSE) for n in EXPLICIT if Solver.named(n).error_order]


def eager(net, y0, ts, **options):
    sol = ic.solve(net, y0[None], ts, batching="per_sample", throw=False, **options)
    return (
        sol.status.tolist(),
        sol.ys[:, 0].detach(),
        [int(x) for x in (sol.stats.accepted, sol.stats.rejected, sol.stats.evaluations)],
    )


@pytest.mark.parametrize(("solver", "options"), WAYS)
@pytest.mark.parametrize("sign", [1, -1])
def test_solves_are_the_eager_engines(solver, options, sign, tmp_path):
    net, y0, ts, a = Net(), torch.tensor([0.4, -1.1], dtype=F64), sign * TS, torch.tensor(0.8, dtype=F64)
    (status,), want, counts = eager(net, y0, ts, args=(a,), solver=solver, **options)
    close = {"rtol": 1e-8, "atol": 1e-8} if "rtol" in options else {"rtol": 1e-12, "atol": 1e-12}
    if CC is None and NODE is None:
        pytest.skip("neither a C compiler nor node found")
    if CC is not None:
        compiled = Compiled(ic.export.to_c(net, y0, args=(a,), solver=solver, **options), tmp_path, F64)
        found, ys, statistics = compiled.solve(y0.tolist(), ts.tolist())
        assert (found, statistics.t) == (status, ts[-1].item())
        assert [statistics.accepted, statistics.rejected, statistics.evaluations] == counts
        torch.testing.assert_close(ys, want, **close)
    if NODE is not None and sign == 1:
        source = ic.export.to_js(net, y0, args=(a,), solver=solver, **options)
        found = in_node(source, tmp_path, f"m.solve({y0.tolist()}, {ts.tolist()})")
        assert [found["status"], found["accepted"], found["rejected"], found["evaluations"]] == [status, *counts]
        torch.testing.assert_close(torch.tensor(found["ys"], dtype=F64), want, **close)


@with_cc
@pytest.mark.parametrize("activation", ["tanh", "elu", "gelu", "silu", "softplus", "relu", "sigmoid"])
def test_networks_in_single_precision(activation, tmp_path):
    net, y0 = MLP((3, 32, 32, 3), activation, seed=1, time=True), torch.tensor([0.3, -0.7, 1.2])
    compiled = Compiled(ic.export.to_c(net, y0, prefix="net"), tmp_path, torch.float32, "net")
    status, ys, _ = compiled.solve(y0.tolist(), TS.tolist(), step=0.05)
    _, want, _ = eager(net, y0, TS, step=0.05)
    torch.testing.assert_close(ys, want, rtol=2e-5, atol=2e-5)
    status, ys, _ = compiled.solve(y0.tolist(), TS.tolist())
    exact = ic.solve(net.double(), y0.double(), TS, rtol=1e-10, atol=1e-10).ys.detach()
    assert status == 0
    torch.testing.assert_close(ys.double(), exact, rtol=1e-3, atol=1e-3)  # of a field with kinks; others are at 1e-5
    net.float()
    torch.testing.assert_close(
        compiled.field(0.5, y0.tolist()), net(torch.tensor(0.5), y0).detach(), rtol=1e-5, atol=1e-6
    )


@with_cc
def test_controllers_and_options(tmp_path):
    net, y0, a = Net(), torch.tensor([0.4, -1.1], dtype=F64), torch.tensor(0.8, dtype=F64)
    pid = ic.PID(1e-5, 1e-7, dcoeff=0.1, pcoeff=0.3, first_step=0.01, max_step=0.2)
    for folder, controller in {"pi": ic.PID.pi(1e-5, 1e-7), "pid": pid}.items():
        (tmp_path / folder).mkdir()
        compiled = Compiled(ic.export.to_c(net, y0, args=(a,), controller=controller), tmp_path / folder, F64)
        (_,), want, counts = eager(net, y0, TS, args=(a,), controller=controller)
        _, ys, statistics = compiled.solve(y0.tolist(), TS.tolist())
        assert [statistics.accepted, statistics.rejected, statistics.evaluations] == counts
        torch.testing.assert_close(ys, want, rtol=1e-8, atol=1e-8)
    (_,), want, _ = eager(net, y0, TS, args=(a,), solver="tsit5", step=0.1)
    torch.testing.assert_close(compiled.solve(y0.tolist(), TS.tolist(), step=0.1)[1], want, rtol=1e-12, atol=1e-12)
    assert compiled.solve(y0.tolist(), [0.0, 1.0, 1.0])[0] == -1
    assert compiled.solve(y0.tolist(), [0.5])[0] == 0


@with_cc
def test_failures_have_the_library_s_statuses(tmp_path):
    field = lambda t, y: torch.where(y > 5, torch.nan, y * y)
    compiled = Compiled(ic.export.to_c(field, torch.ones(1, dtype=F64)), tmp_path, F64)
    for y0, options in ((1.0, {}), (6.0, {}), (0.5, {"max_steps": 3}), (-1.0, {})):
        (status,), want, _ = eager(field, torch.tensor([y0], dtype=F64), [0.0, 0.5, 2.0], **options)
        found, ys, _ = compiled.solve([y0], [0.0, 0.5, 2.0], **options)
        assert found == status
        torch.testing.assert_close(ys, want, rtol=1e-8, atol=1e-8, equal_nan=True)


@pytest.mark.parametrize("language", ["c", "js"])
def test_inputs_stay_arguments(language, tmp_path):
    field = lambda t, y, u, w: torch.sin(y) * u.sum(-1, keepdim=True) + w
    y0, u, w = (
        torch.tensor([0.4, 1.0], dtype=F64),
        torch.tensor([0.5, 0.1, -2.0], dtype=F64),
        torch.tensor([0.3], dtype=F64),
    )
    (_,), want, _ = eager(field, y0, TS, args=(u[None], w[None]))
    given = {"inputs": (torch.zeros_like(u), torch.ones_like(w))}
    handed = [*u.tolist(), *w.tolist()]
    if language == "c":
        if CC is None:
            pytest.skip("no C compiler found (cc or gcc)")
        compiled = Compiled(ic.export.to_c(field, y0, **given), tmp_path, F64)
        _, ys, _ = compiled.solve(y0.tolist(), TS.tolist(), handed)
    else:
        if NODE is None:
            pytest.skip("no node found to run JavaScript")
        source = ic.export.to_js(field, y0, **given)
        ys = torch.tensor(
            in_node(source, tmp_path, f"m.solve({y0.tolist()}, {TS.tolist()}, {{u: {handed}}})")["ys"], dtype=F64
        )
    torch.testing.assert_close(ys, want, rtol=1e-9, atol=1e-9)


def scaled_field(dtype=F64):
    """A model in coordinates of its own, and the same in others."""
    inner, scales = (
        MLP((2, 8, 2), seed=2, dtype=dtype),
        ic.export.Coordinates((True, False), (0.5, -1.0), (0.8, 3.0), 4.0),
    )
    mean, sd = torch.tensor(scales.means, dtype=dtype), torch.tensor(scales.sds, dtype=dtype)

    def field(t, y):
        x = (torch.stack((y[..., 0].log(), y[..., 1]), -1) - mean) / sd
        return inner(t, x) * sd * torch.stack((y[..., 0], torch.ones_like(y[..., 1])), -1) / scales.tau

    return inner, scales, field


@pytest.mark.parametrize("language", ["c", "js"])
def test_coordinates_of_the_model_are_its_own(language, tmp_path):
    inner, scales, field = scaled_field()
    x0, y0, ts = torch.zeros(2, dtype=F64), torch.tensor([1.5, -2.0], dtype=F64), 100 + 4 * TS
    want = ic.solve(field, y0, ts, rtol=1e-11, atol=1e-12).ys
    slope = field(torch.tensor(0.0), y0)
    options = {"coordinates": scales, "rtol": 1e-10, "atol": 1e-11}
    if language == "c":
        if CC is None:
            pytest.skip("no C compiler found (cc or gcc)")
        compiled = Compiled(ic.export.to_c(inner, x0, **options), tmp_path, F64)
        _, ys, statistics = compiled.solve(y0.tolist(), ts.tolist())
        got, end = compiled.field(0.0, y0.tolist()), statistics.t
    else:
        if NODE is None:
            pytest.skip("no node found to run JavaScript")
        code = f"[m.solve({y0.tolist()}, {ts.tolist()}), m.field(0, {y0.tolist()})]"
        found, got = in_node(ic.export.to_js(inner, x0, **options), tmp_path, code)
        ys, got, end = torch.tensor(found["ys"], dtype=F64), torch.tensor(got, dtype=F64), found["t"]
    torch.testing.assert_close(ys, want, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got, slope, rtol=1e-12, atol=1e-12)
    assert end == pytest.approx(112.0, rel=1e-14)


# ---- refusals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("write", [ic.export.to_c, ic.export.to_js])
def test_what_cannot_be_exported_is_refused_by_name(write):
    y0 = torch.ones(2, dtype=F64)
    scales = ic.export.Coordinates((False, False), (0.0, 0.0), (1.0, 1.0), 2.0)
    for says, field, options in (
        ("'kvaerno3' cannot be exported", lambda t, y: -y, {"solver": "kvaerno3"}),
        ("'vern7' cannot be exported", lambda t, y: -y, {"solver": "vern7"}),
        ("no solver 'rk5'|'rk5'", lambda t, y: -y, {"solver": "rk5"}),
        ("no error estimate", lambda t, y: -y, {"solver": "rk4"}),
        ("expected a number", lambda t, y: -y, {"rtol": torch.ones(2)}),
        ("give step", lambda t, y: -y, {"controller": ic.FixedStep(max_step=0.1)}),
        ("neither norm", lambda t, y: -y, {"controller": ic.PID(norm=lambda x: x.abs().max())}),
        ("mixes samples", lambda t, y: y - y.mean(0), {}),
        ("random", lambda t, y: y + torch.randn_like(y), {}),
        ("3 labels", lambda t, y: -y, {"states": ("a", "b", "c")}),
        ("depends on time", lambda t, y: y * t, {"coordinates": scales}),
    ):
        with pytest.raises(ValueError, match=says):
            write(field, y0, **options)


def test_names_cannot_leave_the_comment(tmp_path):
    evil = "a */ int x; /* \n } ?>   </script> $field iso_x"
    with pytest.raises(ValueError, match="prefix='3d'"):
        ic.export.to_c(lambda t, y: -y, torch.ones(1), prefix="3d")
    source = ic.export.to_c(lambda t, y: -y, torch.ones(1), name=evil, states=[evil], time=evil)
    if CC is not None:
        Compiled(source, tmp_path, torch.float32)
    source = ic.export.to_js(lambda t, y: -y, torch.ones(1), name=evil, states=[evil], time=evil)
    assert "</script" not in source
    if NODE is not None:
        assert in_node(source, tmp_path, "m.field(0, [2])") == [-2]
