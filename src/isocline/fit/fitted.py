"""What a finished run holds: its field, and how the table's numbers become the field's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from isocline.fit.config import Config
from isocline.fit.ensemble import Ensemble
from isocline.fit.errors import UserError
from isocline.fit.files import POPULATION, read_run
from isocline.fit.reading.clock import Clock
from isocline.fit.scale import Scales


@dataclass(frozen=True)
class Fitted:
    """A run's model.

    Attributes:
        folder: of the run.
        table: what messages and exported files call its table.
        ensemble: the model, in scaled coordinates, and its members.
        measured: by state the least and the largest value of the table, in its units; {} of runs of earlier versions.
    """

    folder: Path
    table: str
    config: Config
    scales: Scales
    clock: Clock
    ensemble: Ensemble
    measured: Mapping[str, tuple[float, float]]

    @property
    def field(self) -> nn.Module:
        """The model, in scaled coordinates."""
        return self.ensemble.model

    @staticmethod
    def read(folder: Path) -> Fitted:
        """From the run's folder; UserError where there is no run, or no model in it yet."""
        kept = read_run(folder)
        if (folder / POPULATION).is_file():
            raise UserError(
                f"{folder}: a population, with parameters of each series, has no one field; expected another run"
            )
        if not (folder / "states.json").exists():
            raise UserError(f"{folder}: the run has no model yet; finish it with: isocline fit --resume {folder}")
        config = Config.make(**kept["config"])
        scales = Scales.from_dict(kept["scales"])
        return Fitted.of(folder, kept, config, scales, Ensemble.read(folder, config, scales))

    @staticmethod
    def of(folder: Path, kept: dict[str, Any], config: Config, scales: Scales, ensemble: Ensemble) -> Fitted:
        """From its parts; `kept` is config.json."""
        paths = [kept["table"]] if isinstance(kept["table"], str) else kept["table"]
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        table = f"{Path(paths[0]).name}{more}"
        measured = {state: (low, high) for state, (low, high) in kept.get("measured", {}).items()}
        return Fitted(folder, table, config, scales, Clock(**kept["clock"]), ensemble, measured)
