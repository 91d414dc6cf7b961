"""Densities of tables in 8 to 50 dimensions, trained with Hutchinson's estimate of the trace.

Data. FFJORD's tables (POWER, GAS, HEPMASS, MINIBOONE, BSDS300) are not at hand. In their place two of the UCI repository,
prepared as theirs were (columns of few values or nearly double left out, standardised, 80/10/10): protein and parkinsons.
And correlated normal distributions in 10, 20 and 50 dimensions, variances from 0.1 to 10, whose entropy is known.

Model. FFJORD's form: concatsquash layers with tanh, one flow over [0, 1] from N(0, I); two hidden layers of 96. Hutchinson's
estimate with Rademacher noise in training, the exact trace in validation and test.

Training. Adam, 3e-3 falling to zero along a cosine (1e-2 for the normal distributions), batches of 500, 2,000 steps (1,500);
tsit5 at 1e-4. Of the validations, every 200 steps, the best model is kept. Test with dopri5 at 1e-6 and 1e-8.

Published: none for these tables. Ours: the NLL of the test rows, beside a normal distribution with full covariance and a
mixture of normals (the number of components chosen by the validation rows) on the same split.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import MultivariateNormal

from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.datasets_uci import FILES, Table, uci
from isocline.experiments.lab.flows import COARSE, TRAINING
from isocline.experiments.lab.mixture import fit_mixture
from isocline.experiments.lab.pictures import COLOURS, INK, panels, save, title
from isocline.nn import CNF, TimeMLP

BATCH, LOOK = 500, 200
TIGHT = {"solver": "dopri5", "rtol": 1e-6, "atol": 1e-8, "step": None}


class Best:
    """The weights of the best validation, as a part of a training."""

    def __init__(self) -> None:
        self.loss, self.weights = float("inf"), {}

    def offer(self, loss: float, model: torch.nn.Module) -> None:
        """Keeps the weights where the loss is the least so far."""
        if loss < self.loss:
            self.loss, self.weights = loss, copy.deepcopy(model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Loss and weights."""
        return vars(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes those of an earlier session."""
        vars(self).update(state)


def run(job: Job) -> list[Row]:
    """The tables, then the normal distributions."""
    rows: list[Row] = []
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name in ["parkinsons"] if job.quick else FILES:
        table = uci(job, name)
        flow = fitted(job, name, table, 100 if job.quick else 2000)
        found = job.cell(f"{name}: measured", lambda table=table, flow=flow: of_table(job, table, flow))
        size = f"{len(table.train):,} training rows, {len(table.columns)} columns {table.columns}; not in the paper"
        for what, note in (
            ("CNF", f"{size}; {found['evaluations']} evaluations a solve"),
            ("normal distribution", "full covariance"),
            ("mixture", f"{found['components']} components, full covariances, chosen by the validation rows"),
        ):
            rows.append(Row(f"{name}: {what}: NLL", found[what], "nats", note=note))
        torch.manual_seed(job.draw_seed("pairs", name))
        pairs[name] = table.test[:2000], flow.sample((len(table.test[:2000]),))
    for dim in (10,) if job.quick else (10, 20, 50):
        found = job.cell(f"normal {dim}", lambda dim=dim: of_normal(job, dim))
        note = f"exact trace; by Hutchinson's estimate {found['estimated']:.3f}"
        rows.append(Row(f"normal in {dim} dimensions: NLL", found["nll"], "nats", bound=found["entropy"], note=note))
    save(scatters(pairs), job.picture("tables.png"))
    return rows


def fitted(job: Job, name: str, table: Table, iterations: int) -> CNF:
    """A flow trained on a table, as it was at its best validation."""
    dim, width = table.train.shape[1], 32 if job.quick else 96
    field = TimeMLP((dim, width, width, dim), seed=job.draw_seed(name, "weights"))
    flow = CNF(field, dim, trace="hutchinson", gradient="backprop", **(COARSE if job.quick else TRAINING))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2 if job.quick else 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    best = Best()

    def step(i: int) -> Tensor:
        return -flow.log_prob(table.train[torch.randint(len(table.train), (BATCH,))]).mean()

    def look(i: int, loss: float) -> None:
        if (i + 1) % min(LOOK, iterations) == 0:
            with torch.no_grad():
                best.offer(-flow.log_prob(table.validation, trace="exact").mean().item(), flow)

    parts = {"model": flow, "optimizer": optimizer, "schedule": schedule, "best": best}
    train(job, name, parts, iterations, step, clip=10.0, look=look)
    flow.load_state_dict(best.weights)
    flow.options.update(TIGHT)
    return flow


@torch.no_grad()
def of_table(job: Job, table: Table, flow: CNF) -> dict[str, Any]:
    """The NLL of the test rows: the flow's, a normal distribution's, a mixture's."""
    parts = table.test.split(1000)
    nll = -torch.cat([flow.log_prob(part, trace="exact") for part in parts]).double().mean().item()
    evaluations = flow.stats.evaluations
    torch.manual_seed(job.draw_seed("mixtures"))
    x, held = table.train.double(), table.validation.double()
    tried = [(k, fit_mixture(x, k)) for k in ((1, 5) if job.quick else (1, 5, 10, 20, 40, 80))]
    scores = [mixture.log_prob(held).mean().item() for _, mixture in tried]
    components, mixture = tried[scores.index(max(scores))]
    return {
        "CNF": nll,
        "evaluations": evaluations,
        "normal distribution": -tried[0][1].log_prob(table.test.double()).mean().item(),
        "mixture": -mixture.log_prob(table.test.double()).mean().item(),
        "components": components,
    }


def of_normal(job: Job, dim: int) -> dict[str, float]:
    """A flow fitted to a normal distribution, against its entropy."""
    key = f"normal {dim}"
    torch.manual_seed(job.draw_seed(key))
    axes = torch.linalg.qr(torch.randn(dim, dim)).Q
    variances = torch.logspace(-1, 1, dim)
    target = MultivariateNormal(torch.zeros(dim), (axes * variances) @ axes.T)
    iterations = 60 if job.quick else 1500
    field = TimeMLP((dim, 64, dim), seed=job.draw_seed(key, "weights"))
    flow = CNF(field, dim, trace="hutchinson", gradient="backprop", **(COARSE if job.quick else TRAINING))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)

    def step(i: int) -> Tensor:
        return -flow.log_prob(target.sample((BATCH,))).mean()

    train(job, key, {"model": flow, "optimizer": optimizer, "schedule": schedule}, iterations, step, clip=10.0)
    flow.options.update(TIGHT)
    torch.manual_seed(job.draw_seed(key, "test"))
    x = target.sample((2000,))
    with torch.no_grad():
        exact, estimated = flow.log_prob(x, trace="exact"), flow.log_prob(x)
    # The entropy of these very points: their scatter around it is the flow's too.
    return {
        "nll": -exact.mean().item(),
        "estimated": -estimated.mean().item(),
        "entropy": -target.log_prob(x).mean().item(),
    }


# ---- pictures -----------------------------------------------------------------------------------------------------
def scatters(pairs: dict[str, tuple[Tensor, Tensor]]) -> Figure:
    """Test rows and samples, over the two columns that deviate most from a normal pair."""
    figure, grid = panels(len(pairs), 3, (2.9, 2.8))
    for line, (name, (data, samples)) in zip(grid, pairs.items(), strict=True):
        skew = data.pow(3).mean(0).abs()
        one, two = skew.argsort(descending=True)[:2].tolist()
        for axes, x, what in ((line[0], data, "test rows"), (line[1], samples, "samples of the flow")):
            axes.scatter(x[:, one], x[:, two], s=3, color=INK, alpha=0.3, lw=0)
            axes.set(xlim=(-3, 5), ylim=(-3, 5), xlabel=f"column {one}", ylabel=f"column {two}")
            title(axes, f"{name}: {what}")
        edges = torch.linspace(-3, 5, 60)
        for x, colour, label in ((data, COLOURS[0], "test rows"), (samples, COLOURS[1], "samples")):
            line[2].hist(x[:, one], edges, density=True, histtype="step", color=colour, label=label, lw=1.4)
        line[2].set(xlabel=f"column {one}")
        line[2].legend(frameon=False)
        title(line[2], f"{name}: one column")
    return figure


EXPERIMENT = Experiment(
    title="densities of tables, with Hutchinson's trace, against normal mixtures",
    source="Grathwohl et al. (2019), FFJORD, section 4.2; tables of the UCI repository in place of its own",
    run=run,
    data=("tab_uci",),
)
