"""Digits by an ODE on the pixels themselves, and with five empty channels more, at equal numbers of parameters.

Data. MNIST at full resolution, scaled to [0, 1]. On a GPU all 60,000 images to train on and 10,000 to test on; on a
processor, where that would take days, 2000 and 1000.

Models. dy/dt by convolutions 1×1, 3×3, 1×1 with ReLU between; a linear layer reads all pixels and channels of y(1). NODE:
the image alone, 92 filters, 84,395 parameters. ANODE: 5 channels of zeros beside it, 64 filters, 84,816. (Those counts are
the source's, and leave no room for the time as a channel.)

Training. Cross-entropy, Adam, 1e-3, 12 epochs in batches of 256; of 64 where the images are fewer. The source has dopri5 at
1e-3.

Solver. Two steps of the midpoint rule in training, for an evaluation of the 92 filters costs 62 million multiplications an
image. Both models are judged with them and with dopri5 at 1e-3, where they are no longer exactly the networks trained.

Published: accuracies after training on all of MNIST.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from isocline import audit
from isocline.experiments.lab import Experiment, Job, Row, train
from isocline.experiments.lab.datasets import mnist
from isocline.experiments.lab.pictures import COLOURS, INK, bare, panels, quiet, save, title
from isocline.nn import AugmentedODE

MODELS = {"NODE": (0, 92, 84_395, 96.4), "ANODE": (5, 64, 84_816, 98.2)}  # channels, filters, parameters, published %
TIGHT: dict[str, Any] = {"solver": "dopri5", "rtol": 1e-3, "atol": 1e-3, "step": None}


class Convolutions(nn.Module):
    """1×1, 3×3, 1×1: (n, channels, 28, 28) -> the same."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, filters, 1),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(filters, channels, 1),
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt."""
        return self.layers(y)


class Classifier(nn.Module):
    """(n, 1, 28, 28) -> (n, 10)."""

    def __init__(self, extra: int, filters: int) -> None:
        super().__init__()
        how: dict[str, Any] = {"solver": "midpoint", "step": 0.5, "gradient": "backprop", "returns": "end"}
        self.flow = AugmentedODE(Convolutions(1 + extra, filters), extra, dim=1, **how)
        self.last = nn.Linear(28 * 28 * (1 + extra), 10)

    def forward(self, x: Tensor) -> Tensor:
        """The scores."""
        return self.last(self.flow(x).flatten(1))


def subset(job: Job) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (n, 1, 28, 28) in [0, 1] and labels, to train on and to test on."""
    images, labels, test_images, test_labels = mnist(job)
    chosen = torch.Generator().manual_seed(job.draw_seed("subset"))
    count, tests = (64, 32) if job.quick else (2000, 1000) if job.device == "cpu" else (60_000, 10_000)
    some = torch.randperm(len(images), generator=chosen)[:count]
    few = torch.randperm(len(test_images), generator=chosen)[:tests]
    scaled = [x.unsqueeze(1).float().to(job.device) / 255 for x in (images[some], test_images[few])]
    return scaled[0], labels[some].to(job.device), scaled[1], test_labels[few].to(job.device)


def one(job: Job, name: str) -> dict[str, Any]:
    """Trains a model and measures it."""
    extra, filters, *_ = MODELS[name]
    x, labels, test, test_labels = subset(job)
    torch.manual_seed(job.draw_seed("weights", name))
    model = Classifier(extra, filters).to(job.device)
    size = 256 if len(x) > 10_000 else 64
    per_epoch = -(-len(x) // size)
    iterations = per_epoch * (1 if job.quick else 12)

    def step(i: int) -> Tensor:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(job.draw_seed(name, i // per_epoch)))
        batch = order[size * (i % per_epoch) :][:size].to(job.device)
        return nn.functional.cross_entropy(model(x[batch]), labels[batch])

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = train(job, name, {"model": model, "optimizer": optimizer}, iterations, step)
    with torch.no_grad():
        trained = torch.cat([model(part).argmax(1) for part in test.split(100)])
        count, right, evaluations = len(test) // 2, 0, []
        for part, target in zip(test[:count].split(100), test_labels[:count].split(100), strict=True):
            end = model.flow.solution(part, (0.0, 1.0), **TIGHT).ys[-1]
            right += int((model.last(end.flatten(1)).argmax(1) == target).sum())
            evaluations.append(model.flow.stats.evaluations)
        features = model.flow.solution(test[:4], (0.0, 0.5, 1.0)).ys
    return {
        "images": len(x),
        "tests": len(test),
        "accuracy": 100 * float((trained == test_labels).double().mean()),
        "accuracy by dopri5": 100 * right / count,
        "evaluations": sum(evaluations) / len(evaluations),
        "reconstruction": audit.reconstruction(model.flow, model.flow.augment(test[:16]), (0.0, 1.0), **TIGHT),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "loss": history.loss,
        "features": features[:, :, :3].tolist(),
        "seconds": history.seconds[-1],
    }


def run(job: Job) -> list[Row]:
    """Both models."""
    cells = {name: job.cell(name, lambda name=name: one(job, name)) for name in MODELS}
    rows = []
    for name, (_, _, parameters, published) in MODELS.items():
        cell = cells[name]
        what = f"{cell['images']} images, {1 if job.quick else 12} epochs, {cell['tests']} test images"
        rows += [
            Row(
                f"{name}: test accuracy",
                cell["accuracy"],
                "%",
                published=published,
                note=f"{what}; published: 60000 and 10000",
            ),
            Row(
                f"{name}: test accuracy by dopri5 at 1e-3",
                cell["accuracy by dopri5"],
                "%",
                note="half of the test images",
            ),
            Row(
                f"{name}: evaluations by dopri5 at 1e-3",
                cell["evaluations"],
                note=f"0 → 1 → 0 comes back to {cell['reconstruction']:.0e} of the scale",
            ),
            Row(f"{name}: parameters", cell["parameters"], published=parameters),
            Row(f"{name}: training time", cell["seconds"], "s"),
        ]
    save(draw(cells), job.picture("features.png"))
    return rows


# ---- pictures -----------------------------------------------------------------------------------------------------
def draw(cells: dict[str, dict[str, Any]]) -> Figure:
    """The losses; a digit on its way through both flows."""
    figure, grid = panels(2, 6, (1.7, 1.9))
    for row, (name, cell) in enumerate(cells.items()):
        features = torch.tensor(cell["features"])  # (3, 4, channels, 28, 28)
        shown = [features[0, 0, 0], features[1, 0, 0], features[2, 0, 0], *features[2, 0, 1:3]]
        words = ["image", "t = ½", "t = 1", "appended 1", "appended 2"]
        for axes, picture, word in zip(grid[row, 1:], shown, words, strict=False):
            axes.imshow(picture, cmap="gray_r")
            title(axes, word)
        for axes in grid[row, 1:]:
            bare(axes)
        axes = grid[row, 0]
        quiet(axes)
        axes.plot(cell["loss"], color=COLOURS[row], lw=0.9, marker="" if len(cell["loss"]) > 2 else "o")
        axes.set(xlabel="step", yscale="log")
        title(axes, f"{name}: loss")
        axes.title.set_color(INK)
    return figure


EXPERIMENT = Experiment(
    title="digits by an ODE on pixels, plain and augmented",
    source="Dupont, Doucet & Teh (2019), section 5.2",
    run=run,
    data=("mnist",),
    devices=("cpu", "cuda"),
)
