"""The commands and their options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

app = App(
    name="isocline",
    help="Learn dynamics: from a table to a neural ODE, a picture and a verdict.",
    version=lambda: metadata.version("isocline"),
)


@app.command
def fit(
    *tables: Path,
    time: Annotated[list[str] | None, Parameter(negative="")] = None,
    id: Annotated[list[str] | None, Parameter(negative="")] = None,
    state: Annotated[list[str] | None, Parameter(negative="")] = None,
    input: Annotated[list[str] | None, Parameter(negative="")] = None,
    hold: str | None = None,
    hidden_states: Annotated[list[str] | None, Parameter(negative="")] = None,
    lags: str | None = None,
    season: str | None = None,
    ignore: Annotated[list[str] | None, Parameter(negative="")] = None,
    variable: str | None = None,
    value: str | None = None,
    replicates: str | None = None,
    time_unit: str | None = None,
    sheet: str | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    config: Path | None = None,
    equation: Annotated[list[str] | None, Parameter(negative="")] = None,
    parameter: Annotated[list[str] | None, Parameter(negative="")] = None,
    dose: Annotated[list[str] | None, Parameter(negative="")] = None,
    covariate: Annotated[list[str] | None, Parameter(negative="")] = None,
    correlated: Annotated[list[str] | None, Parameter(negative="")] = None,
    error: str | None = None,
    scale: str | None = None,
    log: Annotated[list[str] | None, Parameter(negative="")] = None,
    hold_out: str | None = None,
    iterations: int | None = None,
    tune: int | None = None,
    seed: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    then: Annotated[Callable[..., int] | None, Parameter(parse=False)] = None,
) -> int:
    """Fit a neural ODE to a table, and say whether it predicts better than simple models.

    Parameters
    ----------
    tables:
        CSV or its kin (also .gz), Excel or Parquet. One row a time, one column a state; or one row a measurement (a long
        table). Several series where an id column tells them apart. Several files, or a pattern such as 'runs/*.csv': each
        is a series.
    time:
        Header of the time column (guessed otherwise); once for each column of which a time is made, such as year and month.
    id:
        Header of the column that tells series apart (guessed otherwise); once for each where it takes several.
    state:
        Header of a state column; give it once for each. Default: all other numeric columns.
    input:
        Header of a column that drives the system: known, not predicted; give it once for each. Default: none.
    hold:
        Of inputs between rows: zoh (the last value), linear or cubic.
    hidden_states:
        How many states move the others without being measured; or, with equations, the name of one, once for each.
    lags:
        K or K:SPACING: so many earlier values of every state as further states, where not all states are measured; the spacing
        in rows (2:4) or, with a point, in the unit of time (2:0.08). Needs equally spaced rows.
    season:
        The period of a clock that the networks are given, in the unit of time, or day, week or year; auto: that in which a
        record repeats itself, or of the calendar, where held-out blocks are then forecast better; none. Default: auto.
    ignore:
        Header of a column that plays no role; give it once for each.
    variable:
        Header of the column of a long table that names what was measured (guessed otherwise).
    value:
        Header of the column of a long table that holds the values (guessed otherwise).
    replicates:
        Of rows at the same time of a series: mean, or series for a series of each. Default: they are refused, but averaged
        in a long table.
    time_unit:
        y, w, d, h, min or s: in which dates are counted. Default: the largest, to days, that is not longer than their step.
    sheet:
        Name or number of the sheet of an Excel file. Default: the first.
    out:
        Folder of the run. Default: the table's name and "-fit"; of several files, the name of the folder they are in.
    resume:
        Folder of a run to go on with, after Ctrl-C or a kill; give the table too if it has moved.
    config:
        JSON file with settings; options given here go over it.
    equation:
        Known physics, such as "dlevel1 = -k*sqrt(level1) + net(level1, level2)": a line for each state (";" between
        several, or the option again), with named parameters and networks.
    parameter:
        Start, bounds and unit of a parameter of the equations, such as "k = 0.3 in [0, 5] unit 1/h"; once for each. With "per
        series" it differs from series to series, around that of a population.
    dose:
        Header of a column of the amounts that are given, as in "amt->gut": into which state. Default: of equations whose series
        differ a column amt, into what cmt says, else into the first state; of networks none.
    covariate:
        Header of a column that is constant within a series, such as a weight: an input of the network; in equations known by
        its name, and columns that they name are covariates anyway.
    correlated:
        Name of a parameter per series whose deviation may go with that of others; give it once for each, two or more.
    error:
        Noise of equations with doses, covariates or parameters per series: additive, proportional or combined.
    scale:
        auto, linear or log: how states are scaled.
    log:
        Header of a state, all positive, to be taken in logarithms whatever the scale of others; once for each.
    hold_out:
        Share at the end of every series that is never trained on (0.2), or series:NAME.
    iterations:
        Steps at each length of the training windows (40).
    tune:
        Trials of a search for the settings that best forecast held-out blocks of the training part, before the fit; each takes
        about half of a fit. Needs optuna.
    seed:
        Of the initial weights (0).
    overwrite:
        Replace an earlier run in the folder.
    """
    from isocline.cli.fit import fit_command

    options: dict[str, Any] = {
        "scale": scale,
        "hold_out": hold_out,
        "iterations": iterations,
        "tune": tune,
        "log": tuple(log or ()) or None,
    }
    options |= {"time": "+".join(time or ()) or None, "id": "+".join(id or ()) or None, "time_unit": time_unit}
    options |= {"variable": variable, "value": value, "replicates": replicates, "sheet": sheet}
    options |= {"equations": tuple(equation or ()) or None, "parameters": tuple(parameter or ()) or None}
    options |= {"doses": tuple(dose or ()) or None, "covariates": tuple(covariate or ()) or None, "error": error}
    options |= {"correlated": tuple(correlated or ()) or None}
    options |= {"seed": seed, "states": tuple(state or ()) or None, "ignore": tuple(ignore or ()) or None}
    options |= {"hidden_states": _hidden(hidden_states), "lags": lags, "season": season}
    options |= {"inputs": tuple(input or ()) or None, "hold": hold}
    return (then or fit_command)(list(tables), out, resume, config, options, overwrite)


@app.command
def validate(
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    future: int | None = None,
    horizon: int | None = None,
    series: Annotated[bool, Parameter(negative="")] = False,
    folds: int | None = None,
) -> int:
    """Cross-validate: fit again and again with a part held out, and pool how well the parts are forecast.

    A validation that was broken off goes on with the same command.

    Parameters
    ----------
    arguments:
        A table and options as of `isocline fit`, which see; all but --hold-out and --resume. --out is a folder for the result
        and a run of every fold; default: the table's name and "-validation".
    future:
        Leave the future out from so many rolling origins in the second half of every series (5).
    horizon:
        Rows to forecast from each origin. Default: as far as the next.
    series:
        Leave whole series out instead, one after another.
    folds:
        Of series: so many groups in place of one after another.
    """
    plan = {"future": future, "horizon": horizon, "series": series, "folds": folds}
    command, given, _ = app.parse_args(["fit", *arguments], exit_on_error=False, print_error=False)
    from isocline.cli.validate import validate_command

    return command(*given.args, **given.kwargs, then=partial(validate_command, plan=plan))


@app.command
def show(
    run: Path,
    *,
    figures: Annotated[bool, Parameter(negative="")] = False,
    over: tuple[str, float, float] | None = None,
) -> int:
    """Print what a run has found: data, roles, scores, parameters, warnings, verdict.

    Parameters
    ----------
    run:
        Folder that `isocline fit` or `isocline validate` left.
    figures:
        Write every figure of the report as SVG and PDF, too, into the folder figures of the run.
    over:
        Instead: equilibria and their stability over an input, held constant, or over a parameter of the equations. Its name
        and the two ends of the range, such as --over pump 0 5; also as a picture in the run's folder.
    """
    from isocline.cli.show import over_command, show_command

    return show_command(run, figures) if over is None else over_command(run, *over)


@app.command
def compare(*runs: Path, out: Path | None = None) -> int:
    """Put runs that hold out the same data side by side: a table, a page and a picture.

    Parameters
    ----------
    runs:
        Folders that `isocline fit` left, two or more.
    out:
        The page to write, with a picture (.png) of the same name beside it. Default: comparison.html.
    """
    from isocline.cli.show import compare_command

    return compare_command(list(runs), out)


@app.command
def equations(run: Path, *, degree: int = 3) -> int:
    """Find sparse polynomial equations for what a run has learned, and the command that fits them to the data.

    Needs PySINDy: pip install 'isocline[sparse]'.

    Parameters
    ----------
    run:
        Folder that `isocline fit` left. Of a run with equations the networks in them are replaced.
    degree:
        Highest power of the terms that are tried.
    """
    from isocline.cli.equations import equations_command

    return equations_command(run, degree)


def _hidden(given: list[str] | None) -> int | tuple[str, ...] | None:
    """A number, or names."""
    return int(given[0]) if given and len(given) == 1 and given[0].isdigit() else tuple(given or ()) or None


@app.command
def predict(
    run: Path,
    *,
    until: str | None = None,
    times: Path | None = None,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    bands: Annotated[bool, Parameter(negative="")] = False,
    inputs: Path | None = None,
    out: Path | None = None,
) -> int:
    """Forecast with a fitted run and write a CSV.

    Parameters
    ----------
    run:
        Folder that `isocline fit` left.
    until:
        Forecast to this time (a number, or a date as in the table), at the record's spacing.
    times:
        Instead: a CSV with the times to predict (and the series, where there are several).
    from_:
        A CSV with one complete row a series to start from, or of a run with hidden states or lags a record to go on with; of a
        population, a table like its own, whose series then have the parameters their rows make most likely. Default: the
        end of the record.
    bands:
        Add the bounds of 80 and 95 % bands for every state; of a population, by simulation of all that is not known.
    inputs:
        A CSV with times (and series) and the inputs there, of a run that has inputs, where its table ends too early; of a run
        with doses, those in place of its own; of a population, doses and covariates in place of a series' own, or of new series.
    out:
        The CSV to write. Default: prediction.csv in the run's folder.
    """
    from isocline.cli.predict import predict_command

    return predict_command(run, until, times, from_, bands, out, inputs)


@app.command
def export(run: Path, *, target: str, out: Path | None = None, solver: str | None = None) -> int:
    """Write a fitted model as a file for others, in the table's units.

    Parameters
    ----------
    run:
        Folder that `isocline fit` left.
    target:
        c (a C99 file) or js (an ES module): source code with an adaptive solver, that needs nothing else. onnx or torch (a
        .pt2 file): a graph that gives the states at any times by fixed steps. equations: those of a run with equations, with
        the fitted numbers. safetensors: the weights, with scales and settings as metadata.
    out:
        The file to write. Default: model.c, model.mjs, model.onnx, model.pt2, equations.txt or weights.safetensors in the
        run's folder.
    solver:
        An adaptive explicit method for c and js (tsit5), any explicit Runge–Kutta method for onnx and torch (rk4).
    """
    from isocline.cli.export import export_command

    return export_command(run, target, out, solver)


@app.command
def demo(
    *, out: Path = Path("isocline-demo"), seed: int = 0, quick: Annotated[bool, Parameter(negative="")] = False
) -> int:
    """Watch a neural ODE learn a spiral, and a second one ninety years of hares and lynxes.

    Parameters
    ----------
    out:
        Folder for pictures, animation and reports.
    seed:
        Of both trainings.
    quick:
        A tenth of the steps, to see that everything works.
    """
    from isocline.cli.demo import demo_command

    return demo_command(out, seed, quick)


@app.command
def reproduce(
    name: str | None = None,
    *,
    quick: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    out: Path = Path("results"),
    data: Path | None = None,
    threads: int | None = None,
    fresh: Annotated[bool, Parameter(negative="")] = False,
    device: str = "cpu",
) -> int:
    """Run a published experiment: its data, its model, the published number beside ours.

    A run that was broken off goes on with the same command.

    Parameters
    ----------
    name:
        Of the experiment; without one, the list of them. "all" runs those that are not done yet.
    quick:
        Less data and fewer steps: minutes, to see that it works.
    seed:
        Of everything random.
    out:
        Folder for the record (NAME.json), the pictures and what a break must not lose.
    data:
        Folder with data sets that are already there. Default: $ISOCLINE_DATA, else downloaded once.
    threads:
        Of PyTorch. Default: what suits the experiment.
    fresh:
        Begin again where an earlier run was broken off; with "all" also where it was done.
    device:
        Where to compute, "cuda" for a GPU; of the experiments whose fields are large enough for one.
    """
    from isocline.cli.reproduce import reproduce_command

    return reproduce_command(name, quick, seed, out, data, threads, fresh, device)


bench = App(name="bench", help="Measure isocline on this machine.")
app.command(bench)


@bench.command(name="fit")
def bench_fit(*names: str, seeds: int = 3, data: Path | None = None, out: Path = Path("benchmarks")) -> int:
    """Fit measured series and forecast what follows them, beside simple models. Goes on where it was broken off.

    Parameters
    ----------
    names:
        Words of the data sets' names. Default: all.
    seeds:
        Fits of each.
    data:
        Folder with the data sets. Default: $ISOCLINE_DATA, else ../shared/data; a set that is not there is left out.
    out:
        Folder of fit.jsonl (a line a fit), fit.json and fit.md (the table).
    """
    from isocline.cli.bench import bench_fit_command

    return bench_fit_command(list(names), seeds, data, out)


@app.command
def doctor(
    *,
    benchmark: bool = True,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Report versions, compiler and the fused engine's machine; build, test and time it.

    Parameters
    ----------
    benchmark:
        Time solves by both engines, half a minute at most.
    as_json:
        One JSON object in place of tables.
    """
    from isocline.cli.doctor import doctor_command

    return doctor_command(benchmark, as_json)
