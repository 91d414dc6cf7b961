"""The model and its companions: networks fitted to the data, and to the data with noise added."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from isocline.fit.bands import LEVELS, Bands, spread_of
from isocline.fit.config import Config
from isocline.fit.equation_rows import layout_of
from isocline.fit.files import place, write
from isocline.fit.flow import Flow, flow_of, flow_of_rows
from isocline.fit.forecast import forecast, settled
from isocline.fit.networks import PERIOD, Networks
from isocline.fit.physics import model_of
from isocline.fit.reading.table import Series
from isocline.fit.scale import Scales
from isocline.fit.season import Season
from isocline.fit.unseen import begins_at


@dataclass(frozen=True)
class Ensemble:
    """What a fit leaves.

    Attributes:
        model: the field, in scaled coordinates.
        networks: the layout of the members' parameters.
        members: (M, size) parameters of networks fitted to perturbed data; no rows without bands.
        bands: how to make bands of their spread; None without bands.
        learned: (R, d) scaled states that were learned from, of many some; None without bands.
    """

    model: nn.Module
    networks: Networks
    members: Tensor
    bands: Bands | None
    learned: np.ndarray | None = None

    @property
    def flow(self) -> Flow:
        """Paths of the model."""
        return flow_of(self.model)

    @property
    def crowd(self) -> Flow:
        """Paths of all members, one a sample."""
        return flow_of_rows(self.networks, self.members)

    def spread(self, records: Sequence[Series], later: Sequence[np.ndarray], scales: Scales) -> list[np.ndarray]:
        """`spread_of` (n, d) at later times of each record, each member settled on its end."""
        flow = flow_of_rows(self.networks, self.members.repeat_interleave(len(records), 0))
        paths = forecast(flow, list(records) * len(self.members), list(later) * len(self.members), scales)
        return [self.spread_of(np.stack(paths[i :: len(records)])) for i in range(len(records))]

    def spread_of(self, paths: np.ndarray) -> np.ndarray:
        """(n, d) of paths (M, n, d) of its members: how far they part, and leave what was learned; scaled."""
        return spread_of(paths, self.learned)

    def settled(self, record: Series, scales: Scales) -> Tensor:
        """(M, d) states of all members at the first row of one record."""
        return settled(self.crowd, [record] * len(self.members), scales)

    def distance(self, record: Series, scales: Scales) -> float:
        """How far from all that was learned a forecast of a record begins that was not learned from, scaled."""
        return 0.0 if self.learned is None else begins_at(record, self.learned, scales)

    def intervals(
        self, path: np.ndarray, spread: np.ndarray, scales: Scales, distance: float | None = None
    ) -> dict[str, np.ndarray]:
        """Bounds (n, d) in the table's units: "low80", "high80", "low95", "high95" about a scaled path (n, d).

        Args:
            distance: of a series that was not learned from, where it begins; None of one that was.
        """
        assert self.bands is not None
        out = {}
        for level in LEVELS:
            half = self.bands.half_widths(spread, level, distance)
            out[f"low{100 * level:.0f}"] = scales.unscaled(path - half)
            out[f"high{100 * level:.0f}"] = scales.unscaled(path + half)
        return out

    # ---- keeping --------------------------------------------------------------------------------------------------
    def write(self, folder: Path) -> None:
        """model.safetensors, and with bands members.safetensors and bands.json."""
        weights = {k: v.detach().contiguous() for k, v in self.model.state_dict().items()}
        place(folder / "model.safetensors", lambda aside: aside.write_bytes(save(weights)))
        if self.bands is not None:
            members = {"members": self.members.contiguous(), "learned": torch.tensor(self.learned)}
            place(folder / "members.safetensors", lambda aside: aside.write_bytes(save(members)))
            write(folder / "bands.json", json.dumps(asdict(self.bands), indent=1))

    @staticmethod
    def read(folder: Path, config: Config, scales: Scales) -> Ensemble:
        """From a run's folder."""
        weights = load_file(folder / "model.safetensors")
        season = Season(float(weights[PERIOD]), scales.tau) if PERIOD in weights else None
        model = model_of(config, scales, season)
        model.load_state_dict(weights)
        networks = layout_of(model, config)
        if not (folder / "bands.json").exists():
            return Ensemble(model, networks, torch.zeros(0, networks.size, dtype=torch.float64), None)
        kept = json.loads((folder / "bands.json").read_text(encoding="utf-8"))
        saved = load_file(folder / "members.safetensors")
        return Ensemble(model, networks, saved["members"], Bands.from_dict(kept), saved["learned"].numpy())
