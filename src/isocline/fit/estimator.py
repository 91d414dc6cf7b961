"""`NeuralODERegressor`: the recipe with the manners of a scikit-learn estimator, which it does not need."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from isocline.fit.config import Config
from isocline.fit.errors import UserError
from isocline.fit.result import Result, fit


class NeuralODERegressor:
    """A neural ODE, or given equations, fitted to time series: `fit(frame)`, `predict(times)`, `score(frame)`.

    Parameters are those of `isocline.fit.Config`, kept as they are given; `get_params`, `set_params` and scikit-learn's `clone`,
    pipelines and searches work.

    Args:
        hold_out: as in `Config`, but nothing is held out unless it says so: a search or a split of one's own does that.
        seed: as in `Config`, and so are all others.

    Attributes:
        result_: `isocline.fit.Result`: the report, forecasts with bands, the page.
        states_: names of the states; `time_`, `id_` those of the other columns.
        n_features_in_: 1, the time.

    Example:
        >>> import math
        >>> rows = {"t": [0.3 * i for i in range(30)], "x": [math.exp(-0.1 * i) for i in range(30)]}
        >>> model = NeuralODERegressor(hidden=(4,), matching=20, iterations=2, polish=5, starts=1, members=0, blocks=0)
        >>> model.fit(rows).predict([1.0, 9.5]).shape
        (2, 1)
        >>> model.score(rows) > 0.9
        True
    """

    _estimator_type = "regressor"

    def __init__(
        self,
        *,
        ignore: Sequence[str] = (),
        hold: Literal["zoh", "linear", "cubic"] = "zoh",
        hidden_states: Sequence[str] | int = (),
        lags: str | None = None,
        season: float | str = "auto",
        scale: Literal["auto", "linear", "log"] = "auto",
        log: Sequence[str] = (),
        hold_out: float | str = 0.0,
        blocks: int = 4,
        equations: Sequence[str] = (),
        parameters: Sequence[str] = (),
        hidden: Sequence[int] = (32,),
        matching: int = 400,
        window: int = 5,
        iterations: int = 40,
        polish: int = 200,
        learning_rate: float = 5e-3,
        continuity: float = 1.0,
        noise: Literal["learned", "smoothed"] = "learned",
        penalty: Sequence[float] = (1e-4, 1e-2, 1.0),
        starts: int = 4,
        members: int = 8,
        seed: int = 0,
    ) -> None:
        self.ignore = ignore
        self.hold = hold
        self.hidden_states = hidden_states
        self.lags = lags
        self.season = season
        self.scale = scale
        self.log = log
        self.hold_out = hold_out
        self.blocks = blocks
        self.equations = equations
        self.parameters = parameters
        self.hidden = hidden
        self.matching = matching
        self.window = window
        self.iterations = iterations
        self.polish = polish
        self.learning_rate = learning_rate
        self.continuity = continuity
        self.noise = noise
        self.penalty = penalty
        self.starts = starts
        self.members = members
        self.seed = seed

    # ---- parameters -----------------------------------------------------------------------------------------------
    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What `__init__` was given, by name; `deep` changes nothing, for no parameter is an estimator."""
        return {name: getattr(self, name) for name in _names(type(self))}

    def set_params(self, **params: Any) -> NeuralODERegressor:
        """Changes parameters; returns self.

        Raises:
            ValueError: for one that there is not.
        """
        for name, value in params.items():
            if name not in _names(type(self)):
                raise ValueError(f"no parameter {name!r}; there are {', '.join(_names(type(self)))}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        default = {k: p.default for k, p in inspect.signature(type(self).__init__).parameters.items()}
        changed = [f"{k}={v!r}" for k, v in self.get_params().items() if not np.array_equal(v, default[k])]
        return f"{type(self).__name__}({', '.join(changed)})"

    # ---- fit ------------------------------------------------------------------------------------------------------
    def fit(
        self,
        X: Any,
        y: Any | None = None,
        *,
        time: str | None = None,
        id: str | None = None,
        states: Sequence[str] = (),
        inputs: Sequence[str] = (),
    ) -> NeuralODERegressor:
        """Fits; returns self.

        Args:
            X: a data frame or dictionary with a column of times, one a state, and one of names where there are several series
                (a path, too); or with `y` the times (n,) or (n, 1) of one series.
            y: the states (n,) or (n, d) at the times X, NaN where not observed.
            time, id, states: columns that play these roles; guessed where they are not given.
            inputs: columns that drive the system: known, not predicted. A forecast past their end needs them in the frame that
                `predict` is given.

        Raises:
            UserError: a ValueError, for what is the caller's to mend.
        """
        if y is not None:
            if time is not None or id is not None or states or inputs:
                raise UserError(
                    "time, id, states and inputs name columns of a frame; with y the times are X and the states y"
                )
            X, states = _frame(X, y)
            time = "t"
        params = {k: tuple(v) if isinstance(v, (list, np.ndarray)) else v for k, v in self.get_params().items()}
        found = fit(X, Config.make(**params, time=time, id=id, states=tuple(states), inputs=tuple(inputs)))
        self.result_: Result = found
        config = found["config"]
        self.time_, self.id_, self.states_ = config["time"], config["id"], tuple(config["states"])
        self.n_features_in_ = 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """States (n, d) at the times X, in the order of its rows.

        After the end of the record a forecast; before it the path of the model that best meets the dozen rows around. NaN where
        a forecast cannot go on.

        Args:
            X: times (n,) or (n, 1), or a frame with the columns of time (and series, and inputs where the table's own end
                before). Times without series are those of the only one.

        Raises:
            UserError: for times before the record, several series that are not told apart, and before `fit`.
        """
        result = self._fitted()
        frame = self._asked(X)
        names = frame[self.id_].astype(str).to_numpy() if self.id_ is not None else np.full(len(frame), "")
        ts, ends = result.times(frame), result.ends()
        out = np.full((len(frame), len(self.states_)), np.nan)
        for name in dict.fromkeys(names):
            if name not in ends:
                raise UserError(f"no series {name!r}; there are {', '.join(map(repr, list(ends)[:20]))}")
        late = ts > np.array([ends[name] for name in names])
        if (~late).any():
            out[~late] = result.inside(frame[~late])
        if late.any():
            told = result.predict(frame[late], inputs=self._driven(X))
            values = told[list(self.states_)].to_numpy(dtype=np.float64)
            of = told[self.id_].astype(str).to_numpy() if self.id_ is not None else np.full(len(told), "")
            for name in dict.fromkeys(names[late]):
                # A forecast has each asked time once, in order, as far as it got; rows of X may repeat, in any order.
                rows, path = np.flatnonzero(late & (names == name)), values[of == name]
                unique, back = np.unique(ts[rows], return_inverse=True)
                whole = np.full((len(unique), len(self.states_)), np.nan)
                whole[: len(path)] = path
                out[rows] = whole[back]
        return out

    def score(self, X: Any, y: Any | None = None) -> float:
        """R² of the predictions, the mean over the states; 1 is perfect, 0 no better than the mean.

        Args:
            X: a frame with the columns of time, states (and series); or with `y` times.
            y: the states (n,) or (n, d) at the times X; NaN counts for nothing.
        """
        self._fitted()
        frame = self._asked(X)
        if y is None:
            whole = pd.DataFrame(X)
            missing = [c for c in self.states_ if c not in whole]
            if missing:
                raise UserError(
                    f"no column {missing[0]!r} to compare with; there are {', '.join(map(repr, whole.columns))}"
                )
            y = whole[list(self.states_)]
        seen = np.asarray(y, dtype=np.float64).reshape(len(frame), -1)
        predicted = np.where(np.isnan(seen), np.nan, self.predict(X))
        left = np.nansum((np.where(np.isnan(predicted) & ~np.isnan(seen), np.inf, predicted) - seen) ** 2, 0)
        spread = np.nansum((seen - np.nanmean(seen, 0)) ** 2, 0)
        return float(np.mean(1 - left / np.where(spread > 0, spread, np.nan)))

    def _fitted(self) -> Result:
        if not hasattr(self, "result_"):
            raise UserError(f"this {type(self).__name__} is not fitted yet; call fit first")
        return self.result_

    def _asked(self, X: Any) -> pd.DataFrame:
        """The columns of time (and series) that X has."""
        several = len(self._fitted().ends()) > 1
        if several and not hasattr(X, "columns") and not isinstance(X, dict):
            raise UserError(
                f"X: there are several series; give a frame with the columns {self.time_!r} and {self.id_!r}"
            )
        return self._fitted().asked(X).reset_index(drop=True)

    def _driven(self, X: Any) -> pd.DataFrame | None:
        """The inputs that X has, with their times (and series)."""
        inputs = self.result_["config"]["inputs"]
        if not inputs or not (hasattr(X, "columns") or isinstance(X, dict)) or not set(inputs) <= set(X):
            return None
        frame = self._fitted().asked(X, inputs)
        return frame.drop_duplicates().sort_values(self.time_, kind="stable")


def _names(cls: type) -> list[str]:
    return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]


def _frame(X: Any, y: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A table of times and states; the names of the states."""
    t, values = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if t.ndim == 2 and t.shape[1] == 1:
        t = t[:, 0]
    if t.ndim != 1 or values.ndim not in (1, 2) or len(values) != len(t):
        raise UserError(
            f"X, y: shapes {np.shape(X)} and {np.shape(y)}; expected times (n,) or (n, 1) and states (n,) or (n, d)"
        )
    columns = y.columns if isinstance(y, pd.DataFrame) else None
    values = values.reshape(len(t), -1)
    names = tuple(map(str, columns)) if columns is not None else tuple(f"y{k}" for k in range(values.shape[1]))
    return pd.DataFrame({"t": t, **dict(zip(names, values.T, strict=True))}), names
