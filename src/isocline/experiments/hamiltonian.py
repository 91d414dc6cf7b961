"""A network that learns an energy against one that learns a vector field: the ideal spring and the pendulum.

Data. H = q² + p² (spring) or 3 (1 − cos q) + p² (pendulum); 50 trajectories over [0, 3] of 30 or 45 points, from radii
uniform in [0.1, 1] or [1.3, 2.3]; noise of 0.1 on q and p, none on their derivatives; one half to train on, one to test.

Model. HNN: H(q, p) by a 2-200-200-1 network, tanh, orthogonal initial weights, the last layer without bias;
dq/dt = ∂H/∂p, dp/dt = −∂H/∂q. Baseline: dy/dt by the same network with two outputs.

Training. On the derivatives at the noisy points, mean squared error, all points at once; Adam, 1e-3, weight decay 1e-4;
2000 steps.

Published: errors on the derivatives and the squared error of the energy along solutions, table 1. Its notebook takes
q² + p² for the energy of the pendulum too; both are here. The energies are compared at 100 times over [0, 20] from 15
starts of both |coordinates| in [0.2, 1]; the notebook stretches the times by 1.09 to make up for what noise in the inputs
does to the slope, and by that much again with every start. Here they are what they are.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.pictures import COLOURS, INK, PALE, panels, save, title
from isocline.nn import HamiltonianODE, NeuralODE
from isocline.nn.hamiltonian_ode import Hamiltonian
from isocline.solve import solve

NOISE, PATHS, LONG = 0.1, 50, 20.0
POINTS = {"spring": 30, "pendulum": 45}
RADII = {"spring": (0.1, 1.0), "pendulum": (1.3, 2.3)}
PUBLISHED = {  # train, test, energy
    ("spring", "baseline"): (3.71e-2, 3.67e-2, 1.7077e-1),
    ("spring", "HNN"): (3.69e-2, 3.59e-2, 3.8416e-4),
    ("pendulum", "baseline"): (3.2606e-2, 3.5273e-2, 4.1519e-2),
    ("pendulum", "HNN"): (3.2787e-2, 3.5586e-2, 2.4852e-2),
}
START = {"spring": (1.0, 0.0), "pendulum": (2.1, 0.0)}  # of the pictures


def energy(system: str, y: Tensor) -> Tensor:
    """The true H."""
    q, p = y.unbind(-1)
    return p**2 + (q**2 if system == "spring" else 3 * (1 - torch.cos(q)))


def truth(system: str) -> Hamiltonian:
    """The true field."""
    return Hamiltonian(lambda t, y: energy(system, y))


class Net(nn.Module):
    """The source's: 2-200-200-outputs, tanh, orthogonal, no bias at the end; of y alone."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, outputs, bias=False)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(..., 2) -> (..., outputs)."""
        return self.layers(y)


def data(job: Job, system: str) -> tuple[Tensor, Tensor]:
    """Noisy states and their true derivatives, (50, points, 2) each."""
    torch.manual_seed(job.draw_seed("data", system))
    low, high = RADII[system]
    starts = torch.rand(PATHS, 2, dtype=torch.float64) * 2 - 1
    radii = low + (high - low) * torch.rand(PATHS, 1, dtype=torch.float64)
    starts = starts / starts.norm(dim=1, keepdim=True) * radii
    field = truth(system)
    with torch.no_grad():
        path = solve(field, starts, torch.linspace(0, 3, POINTS[system], dtype=torch.float64), rtol=1e-10).ys
        slopes = field(torch.tensor(0.0), path)
    noisy = path + NOISE * torch.randn_like(path)
    return noisy.transpose(0, 1).float(), slopes.transpose(0, 1).float()


def starts(job: Job, count: int = 15) -> Tensor:
    """(count, 2): those the energy is followed from."""
    torch.manual_seed(job.draw_seed("starts"))
    x = torch.rand(count, 2) * 1.6 - 0.8
    return x + 0.2 * x.sign()


def along(model: NeuralODE, y0: Tensor, ts: Tensor) -> Tensor:
    """Solved tightly, in float64, step by step of each sample its own: a baseline may spiral out."""
    model = model.double()
    with torch.no_grad():
        return model.solution(y0.double(), ts, rtol=1e-8, atol=1e-10).ys


def one(job: Job, system: str, kind: str, iterations: int) -> dict[str, object]:
    """Trains a model and measures it."""
    noisy, slopes = data(job, system)
    half = PATHS // 2
    torch.manual_seed(job.draw_seed("weights", system, kind))
    model = HamiltonianODE(Net(1)) if kind == "HNN" else NeuralODE(Net(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    now = torch.tensor(0.0)

    def error(part: slice) -> Tensor:
        return (model.field(now, noisy[part].flatten(0, 1)) - slopes[part].flatten(0, 1)).square().mean()

    history = train(
        job,
        f"{system} {kind}",
        {"model": model, "optimizer": optimizer},
        iterations,
        lambda i: error(slice(half)),
    )
    train_error, test_error = float(error(slice(half)).detach()), float(error(slice(half, None)).detach())
    ts = torch.linspace(0, LONG, 100, dtype=torch.float64)
    path, true = along(model, starts(job), ts), along(NeuralODE(truth(system)), starts(job), ts)
    shown = along(model, torch.tensor([START[system]]), torch.linspace(0, LONG, 400, dtype=torch.float64))
    squares = [(e(path) - e(true)).square().mean() for e in (lambda y: energy(system, y), lambda y: y.square().sum(-1))]
    return {
        "train": train_error,
        "test": test_error,
        "energy": float(squares[0]),
        "radius": float(squares[1]),
        "path": shown[:, 0].tolist(),
        "seconds": history.seconds[-1],
    }


def run(job: Job) -> list[Row]:
    """Two systems, two models."""
    iterations = 100 if job.quick else 2000
    rows, shown = [], {}
    for system in POINTS:
        noisy, slopes = data(job, system)
        with torch.no_grad():
            floor = (truth(system)(torch.tensor(0.0), noisy[PATHS // 2 :]) - slopes[PATHS // 2 :]).square().mean()
        rows.append(
            Row(
                f"{system}: test MSE of the true field",
                float(floor),
                note="the inputs are noisy and the derivatives are not; a regression may score a little less",
            )
        )
        for kind in ("baseline", "HNN"):
            cell = job.cell(f"{system} {kind}", lambda system=system, kind=kind: one(job, system, kind, iterations))
            published = PUBLISHED[system, kind]
            steps = f"{iterations} steps" if job.quick else ""
            rows += [
                Row(f"{system} {kind}: train MSE", cell["train"], published=published[0], note=steps),
                Row(f"{system} {kind}: test MSE", cell["test"], published=published[1], note=steps),
            ]
            if system == "pendulum":
                rows += [
                    Row(f"{system} {kind}: energy MSE", cell["energy"], note="of 3 (1 − cos q) + p²"),
                    Row(
                        f"{system} {kind}: MSE of q² + p²",
                        cell["radius"],
                        published=published[2],
                        note="what the source's notebook calls energy, without its rescaling of time",
                    ),
                ]
            else:
                note = "without the source's rescaling of time; a solve of [0, 20]"
                rows.append(Row(f"{system} {kind}: energy MSE", cell["energy"], published=published[2], note=note))
            shown[system, kind] = torch.tensor(cell["path"], dtype=torch.float64)
    save(draw(shown), job.picture("energy.png"))
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw(shown: dict[tuple[str, str], Tensor]) -> Figure:
    """Phase planes above, energies below."""
    figure, grid = panels(2, 2, (4.4, 3.2))
    ts = torch.linspace(0, LONG, 400, dtype=torch.float64)
    for column, system in enumerate(POINTS):
        true = along(NeuralODE(truth(system)), torch.tensor([START[system]]), ts)[:, 0]
        plane, over = grid[0, column], grid[1, column]
        for curve, colour, width, label in (
            (true, PALE, 3.0, "true"),
            (shown[system, "baseline"], COLOURS[1], 1.1, "baseline"),
            (shown[system, "HNN"], COLOURS[0], 1.1, "HNN"),
        ):
            plane.plot(*curve.T, color=colour, lw=width, label=label)
            over.plot(ts, energy(system, curve), color=colour, lw=width)
        plane.set(xlabel="q", ylabel="p", aspect="equal")
        plane.margins(0.12)
        title(plane, f"{system}, t = 0 … 20")
        over.set(xlabel="t", ylabel="energy", ylim=(0, 1.6 * float(energy(system, true)[0])))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    grid[1, 0].legend(handles, labels, frameon=False, fontsize=9, loc="lower left", ncols=3, labelcolor=INK)
    return figure


EXPERIMENT = Experiment(
    title="Hamiltonian networks: spring and pendulum",
    source="Greydanus, Dzamba & Yosinski (2019), section 3, table 1",
    run=run,
)
