"""The generative model of time series: a latent ODE, and what was observed of it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus

from isocline._types import Float, Tensor
from isocline.nn.fields import MLP
from isocline.nn.ode_rnn import ODERNN, Observations
from isocline.quadrature import integral
from isocline.solve import solve


class Bound(NamedTuple):
    """The evidence lower bound of each series and its parts, in nats, all (B,).

    Attributes:
        value: log_likelihood + events - kl_weight · kl, the bound itself.
        log_likelihood: E_q log p(x | z), of the observed values.
        events: E_q of the log-likelihood of the observation times; 0 without `rates`.
        kl: KL(q(z0 | x) || p(z0)).
        labels: E_q log p(label | z0), not in `value`; 0 without `classes` or where a label is unknown.

    Example:
        >>> model = LatentODE(2, 4)
        >>> bound = model.elbo(torch.randn(5, 3, 2), torch.linspace(0, 1, 5))
        >>> bound.value.shape, bool((bound.kl >= 0).all())
        (torch.Size([3]), True)
    """

    value: Tensor
    log_likelihood: Tensor
    events: Tensor
    kl: Tensor
    labels: Tensor


class LatentODE(nn.Module):
    """Series as noisy views of an ODE that nobody sees (Chen et al. 2018, section 5; Rubanova et al. 2019).

    z0 ~ N(0, I),  dz/dt = f(t, z) from z(t0) = z0,  x_i ~ N(decoder(z(t_i)), noise²),
    q(z0 | x) = N(mean, std²), mean and std from an encoder that reads the observations back to t0.

    With `rates` the times of the observations are random as well, a Poisson process of rate λ(z(t)):
    log p(t_1 … t_N) = Σ log λ(z(t_i)) − ∫ λ(z(t)) dt, the integral one more state of the same solve.
    With `classes` a classifier reads z0.

    Args:
        observed: D, numbers observed at a time.
        latent: L, of z.
        encoder: "ode_rnn" (`ODERNN` backwards), "rnn" (a GRU backwards that is told the time differences), or a module
            with `encode(x, ts, mask, at) -> (B, hidden)`.
        hidden: H, of the encoder's state.
        width: of the one hidden layer of f, of the decoder, and of the "ode_rnn" encoder's own field.
        field: f(t, z), z (..., L); None: an `MLP` with ELU.
        decoder: a module (..., L) -> (..., D); None: one hidden layer of ReLU.
        posterior: a module (B, H) -> (B, 2 L), mean and log std²; None: linear.
        t0: time of z0. Observations and predictions may lie on both sides of it.
        noise: standard deviation of x around the decoder's output, a number or one for each of the D.
        learn_noise: make it a parameter.
        rates: kinds of events. 1: every time at which a sample was observed is an event. D: every observed value is one of
            its own kind. 0: times are given, not modelled.
        intensity: a module (..., L) -> (..., rates); λ is its softplus. None: one hidden layer of tanh.
        classes: of labels; 0 without.
        classifier: a module (..., L) -> (..., classes), logits; None: two hidden layers of 300, as Rubanova et al.
        **options: of `isocline.solve`, for the latent ODE: `solver`, `step`, `rtol`, `gradient`, …; engine="auto" where nothing
            else is said, as for `NeuralODE`.

    Shapes:
        x (T, B, D), time first; NaN is missing. ts (T,) or (B, T) with NaN as padding at the end. mask None, (T, B) or
        (T, B, D). Times to predict: (T',) or (B, T'). Initial weights are drawn from the global generator.

    Raises:
        ValueError: naming the argument that does not fit; what `solve` raises.

    Source: R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural Ordinary Differential Equations, NeurIPS 2018,
    section 5, eq. 11-13, appendix E. Y. Rubanova, R. T. Q. Chen, D. Duvenaud, Latent ODEs for Irregularly-Sampled Time
    Series, NeurIPS 2019.

    Example:
        >>> from isocline.nn import LatentODE
        >>> model = LatentODE(2, 4, encoder="rnn", noise=0.3, solver="rk4", step=0.1)
        >>> x, ts = torch.randn(20, 8, 2), torch.linspace(0, 1, 20)
        >>> loss = -model.elbo(x, ts, mask=torch.rand(20, 8) < 0.5, samples=3).value.mean()
        >>> loss.backward()
        >>> model.predict(x, ts, torch.linspace(-1, 2, 7)).shape, model.sample(5, ts).shape
        (torch.Size([7, 8, 2]), torch.Size([20, 5, 2]))
    """

    def __init__(
        self,
        observed: int,
        latent: int,
        *,
        encoder: str | nn.Module = "ode_rnn",
        hidden: int = 25,
        width: int = 20,
        field: nn.Module | None = None,
        decoder: nn.Module | None = None,
        posterior: nn.Module | None = None,
        t0: float = 0.0,
        noise: Any = 0.1,
        learn_noise: bool = False,
        rates: int = 0,
        intensity: nn.Module | None = None,
        classes: int = 0,
        classifier: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if min(observed, latent, hidden, width) < 1:
            raise ValueError(f"LatentODE: {observed=}, {latent=}, {hidden=}, {width=}, expected positive numbers")
        if rates not in (0, 1, observed):
            raise ValueError(f"LatentODE: rates={rates}, expected 0, 1 or observed={observed}")
        if classes < 0 or classes == 1:
            raise ValueError(f"LatentODE: classes={classes}, expected 0 for no labels, or 2 and more")
        if "batching" in options:
            raise ValueError("LatentODE: batching is no option; samples with times of their own are solved together")
        std = torch.as_tensor(noise, dtype=torch.get_default_dtype())
        if std.dim() > 1 or std.numel() not in (1, observed) or not bool((std > 0).all()):
            raise ValueError(f"LatentODE: noise={noise!r}, expected a positive number, or {observed} of them")
        self.observed, self.latent, self.t0 = observed, latent, float(t0)
        self.rates, self.classes, self.options = rates, classes, options
        self.encoder: Any = make_encoder(encoder, observed, hidden, width)
        self.field = field or MLP((latent, width, latent), "elu", seed=int(torch.randint(2**31, ())))
        self.decoder = decoder or layers(latent, (width,), observed, nn.ReLU)
        self.posterior = posterior or nn.Linear(hidden, 2 * latent)
        self.log_noise: Tensor
        if learn_noise:
            self.log_noise = nn.Parameter(std.log())
        else:
            self.register_buffer("log_noise", std.log())
        self.integrals: dict[str, Any] = {}
        self.intensity = Intensity(intensity or layers(latent, (width,), rates, nn.Tanh)) if rates else None
        self.classifier = (classifier or layers(latent, (300, 300), classes, nn.ReLU)) if classes else None

    # ---- the model ------------------------------------------------------------------------------------------------
    def encode(self, x: Float[Tensor, "times batch observed"], ts: Any, mask: Any = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z0 | x), (B, L) both."""
        mean, log_variance = self.posterior(self.encoder.encode(x, ts, mask, self.t0)).chunk(2, -1)
        return mean, (0.5 * log_variance).exp()

    def path(
        self, z0: Float[Tensor, "*samples latent"], ts: Any, window: tuple[float, float] | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The latent states at any times, from one solve on each side of t0.

        Args:
            z0: (..., L), at t0.
            ts: (T,) in any order, or (B, T) with NaN as padding, B the last batch dimension of z0.
            window: (a, b) for ∫ λ dt over it.
            **options: go over those of the model.

        Returns:
            z (T, ..., L), NaN where `ts` is; and ∫ λ dt (..., rates), None without window.
        """
        ts = torch.as_tensor(ts, dtype=torch.float64, device=z0.device).detach()
        if ts.dim() not in (1, 2) or (ts.dim() == 2 and (z0.dim() < 2 or ts.shape[0] != z0.shape[-2])):
            raise ValueError(
                f"ts: shape {tuple(ts.shape)}, expected (T,), or (B, T) with B the batch of z0 {tuple(z0.shape)}"
            )
        if window is not None and not window[0] <= window[1]:
            raise ValueError(f"window={window}, expected (a, b) with a <= b")
        fixed = ts.new_tensor([self.t0, *(window or ())])
        grid = torch.cat([ts[~ts.isnan()], fixed]).unique()
        zs, integrals = self._solve(z0, grid, window is not None, {**self.options, **options})
        index = torch.searchsorted(grid, torch.nan_to_num(ts, nan=self.t0))
        if ts.dim() == 1:
            z = zs[index]
        else:
            batch = torch.arange(len(ts), device=ts.device)
            z = zs.reshape(len(grid), -1, *z0.shape[-2:]).transpose(1, 2)[index.t(), batch]  # (T, B, rest, L)
            z = z.transpose(1, 2).reshape(ts.shape[1], *z0.shape)
            missing = ts.isnan().t().reshape(ts.shape[1], *(1,) * (z0.dim() - 2), -1, 1)
            z = torch.where(missing, torch.nan, z) if bool(missing.any()) else z
        if integrals is None or window is None:
            return z, None
        start, end = torch.searchsorted(grid, ts.new_tensor(window)).tolist()
        return z, integrals[end] - integrals[start]

    def _solve(
        self, z0: Tensor, grid: Tensor, integrate: bool, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """z, and ∫ λ from t0 on, at the times of the grid, which rises and has t0 in it."""
        options = {"engine": "auto", "batching": None, **options}
        field, state = self.field, z0.reshape(-1, z0.shape[-1])
        if integrate:
            if self.intensity is None:
                raise ValueError("window: the model has no rate to integrate; make it with rates=1 or rates=observed")
            field, state = self._integral(self.intensity), (state, state.new_zeros(len(state), self.rates))
        after, before = grid[grid >= self.t0], grid[grid <= self.t0].flip(0)
        pieces = []
        if len(before) > 1:
            pieces.append([a[1:].flip(0) for a in pair(solve(field, state, before, **options).ys)])
        if len(after) > 1:
            pieces.append(pair(solve(field, state, after, **options).ys))
        else:
            pieces.append([a[None] for a in pair(state)])
        joined = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
        joined = [x.reshape(len(x), *z0.shape[:-1], x.shape[-1]) for x in joined]
        return joined[0], joined[1] if integrate else None

    def _integral(self, intensity: Intensity) -> Any:
        """The same one in each call: an engine knows a field again that it has seen."""
        found = self.integrals.get("path")
        if found is None or found.field is not self.field or found.loss is not intensity:
            found = self.integrals["path"] = integral(self.field, intensity)
        return found

    def elbo(
        self,
        x: Float[Tensor, "times batch observed"],
        ts: Any,
        mask: Any = None,
        *,
        target: Tensor | None = None,
        target_ts: Any = None,
        target_mask: Any = None,
        labels: Tensor | None = None,
        window: tuple[float, float] | None = None,
        samples: int = 1,
        kl_weight: float = 1.0,
    ) -> Bound:
        """The evidence lower bound, E_q log p(x | z) − kl_weight · KL(q(z0 | x) || p(z0)), of each series.

        Args:
            x, ts, mask: what the encoder reads.
            target, target_ts, target_mask: what is to be explained, in the same forms with times of its own; None: x.
            labels: (B,) int64, −1 where unknown.
            window: (a, b) in which events were watched for; None: from t0 or the first of all target times, whichever is
                earlier, to the last.
            samples: S of z0 of each series, over which the expectations are averaged.
            kl_weight: less than 1 early in a training leaves the posterior free to be narrow.
        """
        mean, std = self.encode(x, ts, mask)
        if target is None:
            target, target_ts, target_mask = x, ts, mask
        seen = Observations.of(target, target_ts, target_mask)
        z0 = mean + std * torch.randn(samples, *mean.shape, dtype=mean.dtype, device=mean.device)
        if self.rates and window is None:
            window = min(self.t0, float(seen.ts.min())), max(self.t0, float(seen.ts.max()))
        given = torch.as_tensor(target_ts)
        z, total = self.path(z0, given if given.dim() == 1 else seen.ts.t(), window if self.rates else None)
        found = self.decoder(z).transpose(0, 1)  # (S, T, B, D)
        log_likelihood = gaussian(seen.x, found, self.log_noise) * seen.mask
        log_likelihood = log_likelihood.sum((1, 3)).mean(0)
        events = torch.zeros_like(log_likelihood)
        if self.intensity is not None and total is not None:
            happened = seen.mask if self.rates == self.observed else seen.mask.any(-1, keepdim=True)
            log_rates = self.intensity.log(z).transpose(0, 1) * happened
            events = (log_rates.sum((1, 3)) - total.sum(-1)).mean(0)
        kl = gaussian_kl(mean, std)
        known = torch.zeros_like(kl) if labels is None else self._label_likelihood(z0, labels)
        return Bound(log_likelihood + events - kl_weight * kl, log_likelihood, events, kl, known)

    def _label_likelihood(self, z0: Tensor, labels: Tensor) -> Tensor:
        if self.classifier is None:
            raise ValueError("labels: the model has no classifier; make it with classes=2 or more")
        logits = self.classifier(z0)
        loss = cross_entropy(
            logits.flatten(0, 1), labels.expand(len(z0), -1).flatten(), ignore_index=-1, reduction="none"
        )
        return -loss.reshape(len(z0), -1).mean(0)

    # ---- what it is good for --------------------------------------------------------------------------------------
    def predict(
        self,
        x: Float[Tensor, "times batch observed"],
        ts: Any,
        at: Any,
        mask: Any = None,
        samples: int = 0,
        **options: Any,
    ) -> Tensor:
        """The series at the times `at`, before, between and after those observed: (T', B, D), NaN where `at` is.

        `samples=0` decodes the mean of q(z0 | x); else (S, T', B, D) from as many draws. `options` go over those of the
        model: a tighter tolerance, say.
        """
        mean, std = self.encode(x, ts, mask)
        if samples == 0:
            return self.decoder(self.path(mean, at, **options)[0])
        z0 = mean + std * torch.randn(samples, *mean.shape, dtype=mean.dtype, device=mean.device)
        return self.decoder(self.path(z0, at, **options)[0]).transpose(0, 1)

    def reconstruct(
        self, x: Float[Tensor, "times batch observed"], ts: Any, mask: Any = None, samples: int = 0, **options: Any
    ) -> Tensor:
        """The series at its own times, the missing values among them: `predict` at `ts`."""
        return self.predict(x, ts, ts, mask, samples, **options)

    def sample(self, count: int, ts: Any, **options: Any) -> Float[Tensor, "times count observed"]:
        """New series: z0 from the prior, decoded at times (T,), without noise."""
        z0 = torch.randn(count, self.latent, dtype=self.log_noise.dtype, device=self.log_noise.device)
        return self.decoder(self.path(z0, ts, **options)[0])

    def classify(
        self, x: Float[Tensor, "times batch observed"], ts: Any, mask: Any = None
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the classes, from the mean of q(z0 | x)."""
        if self.classifier is None:
            raise ValueError("classify: the model has no classifier; make it with classes=2 or more")
        return self.classifier(self.encode(x, ts, mask)[0])


class Intensity(nn.Module):
    """λ = softplus(net(z)), in the form of a running loss of `integral`.

    Example:
        >>> rate = Intensity(nn.Linear(3, 1))
        >>> z = torch.randn(5, 3)
        >>> bool(torch.allclose(rate.log(z), rate(None, z).log(), atol=1e-6))
        True
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Any, z: Tensor, slope: Any = None) -> Tensor:
        """λ(z), (..., rates)."""
        return softplus(self.net(z))

    def log(self, z: Tensor) -> Tensor:
        """log λ(z), finite where λ itself is too small for the dtype."""
        u = self.net(z)
        return torch.where(u < -15, u, softplus(u.clamp(min=-15)).log())  # softplus(u) = e^u (1 − e^u / 2 …)


def gaussian(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(x; mean, std²), number by number.

    Example:
        >>> round(gaussian(torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0.0)).item(), 4)  # -log √(2π)
        -0.9189
    """
    return -0.5 * ((x - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)


def gaussian_kl(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std²) || N(0, I)), summed over the last dimension (Kingma & Welling 2014, appendix B).

    Example:
        >>> gaussian_kl(torch.zeros(2, 3), torch.ones(2, 3)).tolist()
        [0.0, 0.0]
    """
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1)


def layers(n_in: int, widths: tuple[int, ...], n_out: int, activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between.

    Example:
        >>> len(layers(2, (8,), 3, nn.ReLU))
        3
    """
    sizes = [n_in, *widths, n_out]
    parts = [part for i in range(len(sizes) - 1) for part in (nn.Linear(sizes[i], sizes[i + 1]), activation())]
    return nn.Sequential(*parts[:-1])


def make_encoder(encoder: str | nn.Module, observed: int, hidden: int, width: int) -> nn.Module:
    """One of the two of the papers, or the module given."""
    if isinstance(encoder, nn.Module):
        return encoder
    if encoder == "ode_rnn":
        field = MLP((hidden, width, hidden), "tanh", seed=int(torch.randint(2**31, ())))
        return ODERNN(observed, hidden, field, backwards=True)
    if encoder == "rnn":
        return ODERNN(observed, hidden, backwards=True, gaps=True)
    raise ValueError(
        f"LatentODE: encoder={encoder!r}, expected 'ode_rnn', 'rnn', or a module with encode(x, ts, mask, at)"
    )


def pair(ys: Tensor | tuple[Tensor, Tensor]) -> list[Tensor]:
    """A state with or without the integral, as a list."""
    return [ys] if isinstance(ys, Tensor) else list(ys)


__all__ = ["Bound", "LatentODE"]
