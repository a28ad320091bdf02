"""What capacity grows with: laws fitted in logarithms, their exponents with intervals, and how far they foretell.

Two forms: y = a * x (a constant amount for each unit of x) and y = a * x^b. What is fitted are rungs (models), one
number each: the interval is over rungs, however many texts each number is a mean of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["Law", "Named", "Numbers", "Trend", "fit", "leave_one_out", "named", "trend"]
__dir__ = __all__.copy  # what completion shows

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Law:
    """y = scale * x^exponent, with what is needed to say how far it holds."""

    scale: float  # in units of y
    exponent: float  # 1 where it was held there
    low: float  # of the exponent's 95% t interval; the exponent itself where it was held, or two rungs are all
    high: float
    spread: float  # residual standard deviation of ln y; NaN where no rung is left over to see it
    n: int  # rungs
    free: bool  # whether the exponent was fitted
    mean_ln_x: float
    squares_ln_x: float  # sum of squared deviations of ln x from its mean

    @property
    def freedom(self) -> int:
        """The degrees of freedom of the residuals."""
        return self.n - (2 if self.free else 1)

    def predict(self, x: float) -> float:
        """Return y at `x`.

        >>> round(fit([1, 2, 4], [3, 6, 12]).predict(8), 6)
        24.0
        """
        return float(self.scale * x**self.exponent)

    def standard_error(self, x: float) -> float:
        """Return the standard error of ln y of a further rung at `x`: its own spread and the law's uncertainty."""
        lever = (np.log(x) - self.mean_ln_x) ** 2 / self.squares_ln_x if self.free else 0.0
        return float(self.spread * np.sqrt(1 + 1 / self.n + lever))

    def interval(self, x: float, *, confidence: float = 0.95) -> tuple[float, float]:
        """Return where a further rung at `x` lies with this confidence; NaN where no spread was seen."""
        if self.freedom < 1:
            return float("nan"), float("nan")
        reach = stats.t.ppf((1 + confidence) / 2, self.freedom) * self.standard_error(x)
        return self.predict(x) * float(np.exp(-reach)), self.predict(x) * float(np.exp(reach))

    def miss(self, x: float, y: float) -> float:
        """Return how far a further rung is from the law, in standard errors of ln y; above 0 where it holds more."""
        return float((np.log(y) - np.log(self.predict(x))) / self.standard_error(x))


def fit(x: Numbers, y: Numbers, *, exponent: float | None = None) -> Law:
    """Return the law of least squares in logarithms.

    Args:
        x: what y may grow with, of each rung, above 0.
        y: what is held, of each rung, above 0.
        exponent: held there; None fits it.

    Raises ValueError for values that are not above 0, or too few different x: two to fit an exponent, else one.

    >>> law = fit([64, 128, 256], [10.0, 20.0, 40.0])
    >>> round(law.exponent, 6), round(law.scale, 6)
    (1.0, 0.15625)
    """
    across, up = _logarithms(x, y)
    free = exponent is None
    if len(set(across)) < (2 if free else 1):
        raise ValueError(f"{len(set(across))} different x among {len(across)} rungs; an exponent needs at least 2")
    squares = float(((across - across.mean()) ** 2).sum())
    slope = float(((across - across.mean()) * up).sum() / squares) if exponent is None else float(exponent)
    residuals = up - up.mean() - slope * (across - across.mean())
    freedom = len(across) - (2 if free else 1)
    spread = float(np.sqrt((residuals**2).sum() / freedom)) if freedom > 0 else float("nan")
    reach = 0.0
    if free and freedom > 0:
        reach = float(stats.t.ppf(0.975, freedom) * spread / np.sqrt(squares))
    return Law(
        scale=float(np.exp(up.mean() - slope * across.mean())), exponent=slope, low=slope - reach, high=slope + reach,
        spread=spread, n=len(across), free=free, mean_ln_x=float(across.mean()), squares_ln_x=squares,
    )  # fmt: skip


def leave_one_out(x: Numbers, y: Numbers, *, exponent: float | None = None, together: Numbers | None = None) -> float:
    """Return the root mean square error of ln y of each rung, foretold from all others; 0.1 is about 10%.

    Rungs that share an x are left out together: a second seed of a width would foretell the first. Raises ValueError
    as `fit`, or where what remains can't be fitted.

    together: a number a rung; those that share it are left out together, in place of those that share an x.
    """
    across, up = (np.asarray(values, dtype=float) for values in (x, y))
    _logarithms(across, up)
    groups = across if together is None else np.asarray(together)
    if groups.shape != across.shape:
        raise ValueError(f"together has shape {groups.shape}; give a number for each of {len(across)} rungs")
    errors = []
    for value in sorted(set(groups)):
        out = groups == value
        law = fit(across[~out], up[~out], exponent=exponent)
        errors += [np.log(b) - np.log(law.predict(a)) for a, b in zip(across[out], up[out], strict=True)]
    return float(np.sqrt(np.mean(np.square(errors))))


@dataclass(frozen=True)
class Named:
    """A law named beforehand, and how far it foretells."""

    law: Law
    of_width: bool  # whether it goes with the width, else with the parameters
    left_out: float  # root mean square error of ln y of what was left out; NaN where too little remains


def named(width: Numbers, parameters: Numbers, y: Numbers, *, by_width: bool = False) -> dict[str, Named]:
    """Return the three laws of the project, by name: y = a · width, a · width^b and a · parameters^b.

    Of all three the rungs of a width are left out together, so that their errors can be compared.

    Args:
        width: of the [mem] vector, of each rung.
        parameters: of the model, of each rung.
        y: what is held, of each rung, above 0.
        by_width: rungs of one width count as one, their mean, in laws of width: what they share is seen once.

    Raises ValueError as `fit`.
    """
    forms: dict[str, tuple[bool, float | None]] = {
        "a · d_model": (True, 1), "a · d_model^b": (True, None), "a · parameters^b": (False, None)
    }  # fmt: skip
    laws = {}
    for name, (of_width, exponent) in forms.items():
        x = width if of_width else parameters
        enough = len(set(width)) > (2 if exponent is None else 1)
        left_out = leave_one_out(x, y, exponent=exponent, together=width) if enough else float("nan")
        if by_width and of_width:
            across, up = _logarithms(x, y)
            widths = np.unique(across)
            law = fit(np.exp(widths), np.exp([up[across == value].mean() for value in widths]), exponent=exponent)
        else:
            law = fit(x, y, exponent=exponent)
        laws[name] = Named(law, of_width, left_out)
    return laws


@dataclass(frozen=True)
class Trend:
    """How y goes with x where models were trained at each x, several times at some."""

    means: Law  # of rung means, one number an x
    exponent: float  # of that law, or the mean of the trainings' own, where each is at several x
    low: float  # of its 95% t interval over rung means, or over such trainings; NaN where too few are there
    high: float
    n: int  # rung means, or trainings, that the interval is over
    over_trainings: bool
    rise: float  # ln of the mean at the largest x less that at the smallest
    seeds: float  # standard deviation of ln y among trainings at one x, pooled; NaN where none was trained twice

    @property
    def seen(self) -> int:
        """1 or -1 where y grows or falls with x, 0 where that can't be told.

        It is told where the interval leaves out 0, and y changes from end to end by more than seeds do.
        """
        clear = (self.low > 0 or self.high < 0) and abs(self.rise) > self.seeds
        return int(np.sign(self.rise)) if clear and np.sign(self.exponent) == np.sign(self.rise) else 0


def trend(x: Numbers, y: Numbers, *, training: Sequence[Any] | None = None) -> Trend:
    """Return how y goes with x, of models of which several may share an x; means are of ln y.

    A rung is one number however often it was trained: what all its trainings share would else be counted for each.

    training: which one each number is of; where trainings are at several x (checkpoints), each has its own exponent,
    and the interval is over these.

    Raises ValueError as `fit`.

    >>> trend([1, 1, 2, 2, 4], [2.0, 2.1, 4.2, 4.3, 8.1]).seen
    1
    """
    across, up = _logarithms(x, y)
    values = np.unique(across)
    groups = [up[across == value] for value in values]
    means = [group.mean() for group in groups]
    freedom = len(up) - len(groups)
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
    law = fit(np.exp(values), np.exp(means))
    names = np.asarray(range(len(up)) if training is None else list(training))
    own = [names == name for name in dict.fromkeys(names.tolist())]
    slopes = [fit(np.exp(across[at]), np.exp(up[at])).exponent for at in own if len(set(across[at])) > 1]
    exponent, reach, n = law.exponent, (law.high - law.low) / 2 if law.freedom else float("nan"), law.n
    if slopes:
        exponent, n = float(np.mean(slopes)), len(slopes)
        error = np.std(slopes, ddof=1) / np.sqrt(n) if n > 1 else float("nan")
        reach = float(stats.t.ppf(0.975, max(1, n - 1)) * error)
    return Trend(
        means=law, exponent=exponent, low=exponent - reach, high=exponent + reach, n=n, over_trainings=bool(slopes),
        rise=float(means[-1] - means[0]), seeds=float(np.sqrt(squares / freedom)) if freedom else float("nan"),
    )  # fmt: skip


def _logarithms(x: Numbers, y: Numbers) -> tuple[np.ndarray, np.ndarray]:
    across, up = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if across.shape != up.shape or across.ndim != 1:
        raise ValueError(f"x has shape {across.shape} and y {up.shape}; give one number of each for every rung")
    wrong = [float(value) for value in (*across, *up) if not (np.isfinite(value) and value > 0)]
    if wrong:
        raise ValueError(f"{wrong[:3]} are not finite and above 0; a law in logarithms has no place for them")
    return np.log(across), np.log(up)
