"""`isocline equations`: sparse equations for what a run has learned."""

from __future__ import annotations

from pathlib import Path

from isocline.cli import fail
from isocline.cli.fit import say
from isocline.fit import SparseEquations, UserError, sparse_equations


def equations_command(run: Path, degree: int) -> int:
    """0 when equations were found; exits with 2 where there is nothing to find."""
    try:
        found = sparse_equations(run, degree=degree)
    except UserError as error:
        fail(str(error))
    for line in str(found).splitlines():
        say(line, "bold")
    say(f"R² against what was learned: {', '.join(f'{name} {value:.4g}' for name, value in found.r2.items())}")
    say(chosen(found))
    if found.held_out is not None:
        ours, field = found.held_out
        say(f"held-out part: NRMSE {ours:.3g}, that of the run's model {field:.3g}")
    say("the numbers are those of the model; to fit them to the data themselves:")
    say(f"  {found.command}")
    return 0


def chosen(found: SparseEquations) -> str:
    """How the equations were chosen, in a sentence."""
    terms = f"{found.terms} term{'s' * (found.terms != 1)}"
    numbers = f"NRMSE {found.error:.3g}, of the run's model {found.field_error:.3g}"
    if not found.good:
        return (
            f"{terms}, the best of {len(found.tried)} sets of equations, but none forecasts blocks of the training part as "
            f"well as the run's model ({numbers}): polynomials of the columns may not be what moves them"
        )
    return (
        f"{terms} (threshold {found.threshold:.2g}): the fewest of those among {len(found.tried)} sets of equations that "
        f"forecast blocks of the training part as well as the run's model ({numbers})"
    )
