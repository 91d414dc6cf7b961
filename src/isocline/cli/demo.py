"""`isocline demo`: a spiral learned before one's eyes, then ninety years of hares and lynxes."""

from __future__ import annotations

import base64
import time
from importlib.resources import as_file, files
from pathlib import Path

import torch
from rich.progress import track

from isocline.cli.fit import console, run
from isocline.experiments import spiral
from isocline.fit import Config
from isocline.fit import fit as fit_table
from isocline.fit.files import write
from isocline.report.figures import losses
from isocline.report.html import page


def demo_command(out: Path, seed: int, quick: bool) -> int:
    """0 when both parts are done, 130 after Ctrl-C in the second."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    console.print("1. A neural ODE learns a spiral from one noisy trajectory", style="bold")
    learn_spiral(out, seed, quick)
    console.print("\n2. The same for measured data: pelts of hares and lynxes, 1845-1935", style="bold")
    quickly = {"matching": 100, "iterations": 5, "polish": 20, "penalty": (1.0,), "members": 3, "blocks": 2}
    config = Config.make(seed=seed, **(quickly if quick else {}))
    folder = out / "lynx-hare"
    with as_file(files("isocline").joinpath("data/lynx_hare.csv")) as table:
        command = "isocline fit lynx_hare.csv"
        code = run(lambda **kw: fit_table(table, config, folder, overwrite=True, command=command, **kw), folder)
    console.print(f"\nspiral: {out / 'spiral.html'} (animation: {out / 'spiral.gif'})")
    console.print(f"report: {folder / 'report.html'}")
    return code


def learn_spiral(out: Path, seed: int, quick: bool) -> None:
    """Trains, with progress on the screen, and leaves spiral.gif, spiral.png and spiral.html."""
    iterations = 150 if quick else 1500
    began = time.monotonic()
    steps = iter(track(range(iterations + 1), "training", console=console, transient=not console.is_terminal))
    shown = [-1]

    def tell(i: int, loss: float) -> None:
        next(steps, None)
        tenth = 5 * i // iterations
        if tenth > shown[0] and not console.is_terminal:
            shown[0] = tenth
            print(f"iteration {i}/{iterations}  loss {loss:.2e}  {time.monotonic() - began:.0f} s", flush=True)

    result = spiral.train(seed, iterations, tell=tell)
    next(steps, None)
    seconds = time.monotonic() - began
    spiral.animate(result, out / "spiral.gif")
    spiral.picture(result, out / "spiral.png")
    history = {
        "iteration": list(range(len(result.losses))),
        "train": result.losses,
    }
    text = page(
        "spiral.html",
        gif=base64.b64encode((out / "spiral.gif").read_bytes()).decode(),
        losses=losses({"history": history}),
        points=len(result.data.ts),
        iterations=iterations,
        seconds=seconds,
        error=result.error,
        noise=0.01,
    )
    write(out / "spiral.html", text)
    console.print(
        f"The learned path stays within {result.error:.3f} of the true one over its whole length (noise 0.01)."
    )
