"""What the measurements do not determine, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from isocline.equations.inference import Optimum, Search

SINGULAR = 1e-6  # a direction in which the fit changes so much less than in the strongest one counts as undetermined
SHARE = 0.05  # of a direction's largest entry: smaller ones are left out of the sentence
STRONG = 0.98  # correlations from here on are told


@dataclass(frozen=True)
class Undetermined:
    """Directions of x along which nothing that was measured changes.

    Attributes:
        entries: (size,) whether an entry of x is moved by such a direction.
        sentences: what to tell, one a direction.
    """

    entries: Tensor
    sentences: tuple[str, ...]

    @staticmethod
    def of(search: Search, best: Optimum) -> Undetermined:
        """From the singular values of the Jacobian, its columns brought to length one."""
        _, jacobian = search.weighted((best.residuals, best.jacobian), best.x, best.variances)
        misfit = search.misfit
        names = misfit.names
        moved = torch.zeros(len(best.x), dtype=torch.bool)
        if not len(names):
            return Undetermined(moved, ())
        length = jacobian.norm(dim=0)
        told = []
        typical = length[: len(names)].max()
        silent = length <= 1e-10 * typical.clamp(min=1e-300)
        at_bound = [p.bound_of(u) is not None for p, u in zip(misfit.field.free, best.x, strict=False)]
        silent[: len(at_bound)] |= torch.tensor(at_bound, dtype=torch.bool)
        for i, name in enumerate(names):
            if i < len(at_bound) and at_bound[i]:
                moved[i] = True  # told elsewhere: at a bound every parameter is without effect in its own coordinate
            elif silent[i]:
                moved[i] = True
                told.append(f"{name} has no effect on anything that was measured: fix it, or measure what it changes")
        rest = (~silent).nonzero().squeeze(1)
        if not len(rest):
            return Undetermined(moved, tuple(told))
        _, values, directions = torch.linalg.svd(jacobian[:, rest] / length[rest], full_matrices=True)
        values = torch.cat([values, values.new_zeros(len(rest) - len(values))])
        for value, direction in zip(values, directions, strict=True):
            if value > SINGULAR * values[0]:
                continue
            step = torch.zeros(len(best.x), dtype=torch.float64)
            step[rest] = direction / length[rest]
            step = step[: len(names)]
            if not bool(step.any()):
                continue
            relative = direction.new_zeros(len(best.x)).index_copy_(0, rest, direction)[: len(names)]
            parts = [
                int(i)
                for i in relative.abs().argsort(descending=True)
                if relative[i].abs() > SHARE * relative.abs().max()
            ]
            moved[parts] = True
            told.append(_sentence(search, names, parts, step))
        return Undetermined(moved, tuple(told))


def _sentence(search: Search, names: Sequence[str], parts: list[int], step: Tensor) -> str:
    """One direction: who moves how far with whom."""
    free = search.misfit.field.free
    shown = [names[i] for i in parts]
    if len(parts) == 1:
        return f"{shown[0]} is not determined by what was measured: fix it, or measure more"
    whole = f"{', '.join(shown[:-1])} and {shown[-1]} are not determined separately, only a combination of them"
    if all(i < len(free) and free[i].logarithmic for i in parts):
        size = step[parts] / step[parts].abs().max() * step[parts[0]].sign()
        moves = [
            f"{names[i]} {'up' if s > 0 else 'down'} by {abs(10 * float(s)):.3g} %"
            for i, s in zip(parts, size, strict=True)
        ]
        whole += f": {' with '.join([moves[0], ' and '.join(moves[1:])])} changes nothing that was measured"
    return f"{whole}; fix one of them, or measure something that tells them apart"


def correlated(names: Sequence[str], correlation: Tensor) -> list[str]:
    """Pairs that the data can hardly tell apart."""
    told = []
    for i in range(len(names)):
        for j in range(i):
            r = float(correlation[i, j])
            if abs(r) >= STRONG:
                way = "up" if r > 0 else "down"
                told.append(
                    f"{names[j]} and {names[i]} are hard to tell apart (correlation {r:.3f}): if one goes up the other goes {way}"
                )
    return told
