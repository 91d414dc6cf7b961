"""A run's model as a graph, and its equations as text: the same numbers as the model's own."""

import io
import json
import zipfile

import pytest
import torch
from safetensors.torch import load

from isocline.equations import Equations
from isocline.fit import Config
from isocline.fit.drive import Drive, Inputs
from isocline.fit.ensemble import Ensemble
from isocline.fit.equation_rows import layout_of
from isocline.fit.export import equations, weights
from isocline.fit.fitted import Fitted
from isocline.fit.physics import model_of
from isocline.fit.reading.clock import Clock
from isocline.fit.rollout import program_of, step_of
from isocline.fit.scale import Scales, StateScale
from isocline.solve import solve
from isocline.solvers import Solver

LAW = (
    "r = k*level*(1 + 0.3*sin(0.7*t)); dlevel = pump - r + 0.05*net(level, width=4); d`body mass` = 0.1*r - 0.2*`body mass`",
)


@pytest.fixture
def fitted(tmp_path):
    """A tank: equations with a network, a pump that drives it, and the time in them."""
    config = Config.make(
        time="t [h]", states=("level [V]", "body mass"), inputs=("pump",), hold="linear", equations=LAW,
        parameters=("k = 0.4 in [0, 5] unit 1/h",),
    )  # fmt: skip
    scales = Scales(
        (StateScale("log", 0.3, 0.5), StateScale("linear", 1.0, 2.0)), 3.0, (StateScale("linear", 0.5, 0.4),)
    )
    model = model_of(config, scales)
    networks = layout_of(model, config)
    nobody = torch.zeros(0, networks.size, dtype=torch.float64)
    return Fitted(tmp_path / "tank", "tank.csv", config, scales, Clock(), Ensemble(model, networks, nobody, None), {})


def reported(scales):
    """What a rollout looks at of a report."""
    ts = [100.0 + 0.5 * i for i in range(20)]
    return {"series": [{"t": ts}], "model_path": [{"t": ts, "y": [[1.0 + 0.1 * i, 0.5] for i in range(20)]}]}


def test_inputs_and_the_time_of_equations_are_in_the_graph(fitted):
    step, miss, spacing = step_of(fitted, reported(fitted.scales), Solver.named("bosh3").tableau)
    assert spacing == 0.5 and miss < 1e-6 and step.steps > 1
    program = program_of(step, fitted)
    ts = torch.tensor([100.0, 100.5, 101.2, 102.0, 102.4], dtype=torch.float64)
    u = torch.stack([0.5 + 0.4 * torch.sin(ts), 0.2 + 0 * ts], 1)[..., None]
    y0 = torch.tensor([[1.2, 0.4], [2.0, 1.0]], dtype=torch.float64)
    got = program.module()(y0, ts, u)
    drive = Drive.joined(
        [
            Drive.stacked([100.0], [Inputs(ts.numpy(), u[:, i].numpy(), "linear").scaled(100.0, fitted.scales)])
            for i in (0, 1)
        ]
    )
    x0 = torch.tensor(fitted.scales.scaled(y0.numpy()))
    times, options = (
        ((ts - ts[0]) / 3.0).expand(2, -1),
        {"rtol": 1e-9, "atol": 1e-10, "engine": "eager", "batching": "per_sample"},
    )
    paths = solve(fitted.field, x0, times, inputs=drive.given(fitted.field), **options).ys
    want = torch.tensor(fitted.scales.unscaled(paths.detach().numpy()))
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as file:  # nothing of isocline's is needed, and no path of this computer is told
        assert not any(b"isocline" in file.read(name) for name in file.namelist())


def test_what_a_graph_cannot_hold_is_refused(fitted):
    cubic = fitted.config.model_copy(update={"hold": "cubic"})
    other = Fitted(fitted.folder, fitted.table, cubic, fitted.scales, fitted.clock, fitted.ensemble, {})
    with pytest.raises(ValueError, match=r"held as cubics.*--hold linear"):
        step_of(other, reported(fitted.scales), Solver.named("rk4").tableau)
    fitted.field.takes = ("doses",)
    with pytest.raises(ValueError, match="its field depends on doses"):
        step_of(fitted, reported(fitted.scales), Solver.named("rk4").tableau)


def test_the_equations_have_the_numbers_in_and_can_be_read_again(fitted):
    own = fitted.field.equations
    own.assign({"k": 0.123456789012345})
    text = equations(fitted)
    lines = text.splitlines()
    assert "dlevel/dt = pump - r + 0.05*net(level, width=4)" in lines and "k*" not in "".join(lines[:5])
    assert "net(…)" in lines[1] and "fitted anew" in lines[1] and "over t [h]" in lines[0]
    read = Equations(text, states=own.states, inputs=("pump",))
    assert read.names == () and read.system.nets == own.system.nets
    args = torch.tensor(1.5), torch.rand(7, 2, dtype=torch.float64), torch.rand(7, 1, dtype=torch.float64)
    read.load_state_dict(
        {**own.state_dict(), **read.state_dict()} | {k: v for k, v in own.state_dict().items() if "nets" in k},
        strict=False,
    )
    assert torch.equal(read(*args), own(*args))
    options = {name: [] for name in ("equation", "parameter")}
    for line in lines:
        for name in options:
            if line.startswith(f"#   --{name} '"):
                options[name].append(line.split("'", 1)[1][:-1])
    again = Config.make(
        states=fitted.config.states, inputs=("pump",), equations=options["equation"], parameters=options["parameter"]
    )
    assert model_of(again, fitted.scales).equations.values == own.values


def test_the_weights_of_equations_tell_the_equations(fitted):
    data = weights(fitted)
    told = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert json.loads(told["parameters"]) == pytest.approx({"k": 0.4}) and "r = k*" in told["equations"]
    assert load(data).keys() == fitted.field.state_dict().keys()
