"""The resolved configuration of a run."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from isocline.fit.errors import UserError
from isocline.fit.reading.lags import Lags, earlier
from isocline.fit.season import named_or_period


class Config(BaseModel):
    """Everything a fit depends on besides the table; kept in `config.json` of the run.

    Args:
        time, id, states: headers; what is None or empty is guessed from the table. Several columns that are the time
            together ("year+month"), or the name of a series ("subject+replicate"), are joined by "+".
        inputs: headers of columns that drive the system: known, not predicted.
        hold: of inputs between rows: "zoh" (the last value), "linear" or "cubic".
        hidden_states: names of states that move the others and are not measured; or how many, named "hidden 1", ….
        lags: earlier values of every state that are further states ("2": so many, "2:4": four rows apart, "2:0.08": so far
            apart in the unit of time); needs equally spaced rows.
        ignore: headers that play no role.
        variable, value: of a long table, one row a measurement: headers of what was measured, and of the values.
        replicates: of rows at the same time of a series: their "mean", or each a "series"; None refuses them, but averages
            the values of a long table.
        time_unit: in which dates are counted: y, w, d, h, min or s; None: the largest, to days, below their usual step.
        sheet: of an Excel file: its name, or its number from 1.
        scale: of the states: "auto" takes logarithms of columns that are positive and skewed.
        log: headers of states that are taken in logarithms whatever `scale` says.
        hold_out: the share of every series at its end that is never trained on, or "series:NAME" for a whole one;
            "fold:K/N" and "future:K/N" are the folds of `isocline.fit.validate`.
        blocks: held-out blocks, spread over the record, that choose the penalty and calibrate the bands; 0 skips both.
        equations: known physics, as `isocline.Equations` reads it; empty: a network is the whole field.
        parameters: declarations of its parameters, such as "k = 0.3 in [0, 5] unit 1/h", or "k > 0 per series": of a
            population, of which each series has its own.
        doses: "COLUMN" or "COLUMN->STATE", where rows with an amount make the state jump, or flow into it.
        season: the period of a clock that the network is given, in the time's unit, or of a table with dates "day", "week" or
            "year"; "auto": that in which a record repeats itself, or of the calendar, where held-out blocks are then forecast better; "none".
        covariates: headers of columns that are constant within a series: in equations known by name, of a network inputs.
        correlated: of a population: names of parameters per series whose deviations may go together, two or more.
        error: of a population: the noise of what is measured: "additive", "proportional" or "combined".
        hidden: widths of the hidden layers (tanh).
        matching: Adam steps of gradient matching on the smoothed record; 0 skips it.
        window: observations in the shortest training window; windows grow by doubling.
        iterations: L-BFGS iterations at each window length (of long records, five Adam steps for each); 0 skips multiple shooting.
        polish: L-BFGS iterations (or Adam, likewise) on windows of full length; 0 skips them.
        learning_rate: of Adam on windows; falls to a tenth along a cosine at each length.
        continuity: weight of the gaps between the end of a window and the free start of the next.
        noise: of every column: "learned", or what the smoothing spline left ("smoothed").
        penalty: weight of the squared parameters of the network; of several the held-out blocks choose one, and where equations
            have networks beside laws that can do without, whether these are needed at all.
        starts: networks fitted to the data, which begin in turn with the whole, a hundredth and a ten thousandth of the
            smoothing spline's penalty; of those that fit alike the model is the one that runs on as most do.
        members: networks fitted to the data with noise added, for the bands; 0 skips them.
        tune: trials of a search, by held-out blocks of the training part, for those of hidden, penalty, window, continuity and
            learning_rate that are not given; needs optuna. 0: no search.
        seed: of the initial weights and the choice of windows.

    Example:
        >>> Config(iterations=100).hold_out
        0.2
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: str | None = None
    id: str | None = None
    states: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    hold: Literal["zoh", "linear", "cubic"] = "zoh"
    hidden_states: tuple[str, ...] = ()
    lags: str | None = None
    ignore: tuple[str, ...] = ()
    variable: str | None = None
    value: str | None = None
    replicates: Literal["mean", "series"] | None = None
    time_unit: Literal["y", "w", "d", "h", "min", "s"] | None = None
    sheet: str | None = None
    scale: Literal["auto", "linear", "log"] = "auto"
    log: tuple[str, ...] = ()
    hold_out: float | str = 0.2
    blocks: int = Field(4, ge=0, le=20)
    equations: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    doses: tuple[str, ...] = ()
    season: float | str = "auto"
    covariates: tuple[str, ...] = ()
    correlated: tuple[str, ...] = ()
    error: Literal["additive", "proportional", "combined"] = "additive"
    hidden: tuple[PositiveInt, ...] = (32,)
    matching: int = Field(400, ge=0)
    window: int = Field(5, ge=2)
    iterations: int = Field(40, ge=0)
    polish: int = Field(200, ge=0)
    learning_rate: float = Field(5e-3, gt=0)
    continuity: float = Field(1.0, ge=0)
    noise: Literal["learned", "smoothed"] = "learned"
    penalty: tuple[float, ...] = (1e-4, 1e-2, 1.0)
    starts: int = Field(4, ge=1)
    members: int = Field(8, ge=0)
    tune: int = Field(0, ge=0)
    seed: int = Field(0, ge=0, lt=2**31)

    @field_validator("hidden_states", mode="before")
    @classmethod
    def _counted(cls, given: object) -> object:
        """A number of hidden states as their names."""
        if isinstance(given, int) and given < 0:
            raise ValueError("expected how many states are hidden, or their names")
        return tuple(f"hidden {k + 1}" for k in range(given)) if isinstance(given, int) else given

    @field_validator("lags")
    @classmethod
    def _read(cls, given: str | None) -> str | None:
        """Whether lags are such."""
        if given is not None:
            Lags.of(given)
        return given

    @field_validator("season")
    @classmethod
    def _lasting(cls, given: float | str) -> float | str:
        """A period as a number, others by name."""
        return named_or_period(given)

    @property
    def shown_states(self) -> tuple[str, ...]:
        """Measured ones, then hidden ones."""
        return (*self.states, *self.hidden_states)

    @property
    def every_state(self) -> tuple[str, ...]:
        """Measured ones, their earlier values, then hidden ones."""
        delays = Lags.of(self.lags).times(1.0) if self.lags else ()
        return (*self.states, *(earlier(s, d) for d in delays for s in self.states), *self.hidden_states)

    @staticmethod
    def make(**settings: object) -> Config:
        """A configuration, or one message that names the setting; UserError."""
        try:
            config = Config(**settings)  # pyrefly: ignore[bad-argument-type]
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                near = difflib.get_close_matches(name, Config.model_fields, n=1)
                guess = f"; did you mean {near[0]!r}?" if near else ""
                raise UserError(f"no setting {name!r}{guess}; there are {', '.join(Config.model_fields)}") from error
            raise UserError(f"{name}={first['input']!r}: {first['msg']}") from error
        others = {"hidden_states": config.hidden_states, "equations": config.equations, "doses": config.doses}
        other = next((name for name, value in others.items() if value), None)
        if config.lags and other:
            raise UserError(
                f"lags={config.lags!r}: beside {other}; expected one of them: earlier values stand for states that are not measured"
            )
        if config.equations and config.season not in ("auto", "none"):
            raise UserError(
                f"season={config.season!r}: beside equations; expected it in them, as in sin(2*pi*t/12), or one of the two"
            )
        if isinstance(config.hold_out, float) and not 0 <= config.hold_out < 0.9:
            raise UserError(f"hold_out={config.hold_out}: expected a share from 0 to below 0.9, or series:NAME")
        if isinstance(config.hold_out, str) and not config.hold_out.startswith(("series:", "fold:", "future:")):
            raise UserError(f"hold_out={config.hold_out!r}: expected a share such as 0.2, or series:NAME")
        return config

    @staticmethod
    def read(path: Path) -> dict[str, object]:
        """Settings from a JSON file."""
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path}: not JSON: {error}") from error
        if not isinstance(settings, dict):
            raise UserError(f"{path}: expected a JSON object with settings, found {type(settings).__name__}")
        return settings
