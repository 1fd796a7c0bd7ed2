"""Fit how an error falls with training rows: error = floor + height x (rows / centre)^-slope.

This is the usual form of learning curves (Hestness et al., Deep Learning Scaling is Predictable, Empirically, 2017):
the error above the floor is a straight line in log-log. The floor is the lowest error for any number of rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

STEEPEST = 3.0  # learning curves have slopes of 0.05 to 1; a fit that needs more is noise
SLOPES = np.geomspace(0.01, STEEPEST, 240)  # neighbours are 2.4 % apart
FREE_FLOOR_SIZES = 4  # one more than the three unknowns; with fewer sizes the floor must be known
FARTHEST = 10.0  # times the largest size: an answer beyond it would come from the formula, not from the data
LEVEL = 0.95
SMALLEST_SPREAD = 0.25  # of the largest: a size with all rows right has no spread, but must not get all the weight
WORST_MISS = 4.0  # standard errors; in 750 simulated studies a true law was missed by at most 3.2


@dataclasses.dataclass(frozen=True)
class Law:
    """error(rows) = floor + height * (rows / centre)^-slope. The error is 1 - accuracy, or a mean absolute error."""

    height: float  # error above the floor at `centre` rows
    slope: float
    floor: float
    centre: float

    def error(self, rows: float | np.ndarray) -> np.ndarray:
        """Return the error at these rows."""
        return self.floor + self.height * (np.asarray(rows, dtype=float) / self.centre) ** -self.slope

    def rows_for(self, error: float) -> float:
        """Return the number of rows at which the error is reached; infinity if it never is."""
        above = error - self.floor
        if above <= 0 or self.slope <= 0:
            return math.inf
        if self.height <= 0:
            return 0.0
        return float(self.centre * math.exp(min(math.log(above / self.height) / -self.slope, 700.0)))


def centre_of(sizes: Sequence[float] | np.ndarray) -> float:
    """Return the geometric mean of the sizes: with this centre, height and slope are the least correlated."""
    return float(np.exp(np.mean(np.log(np.asarray(sizes, dtype=float)))))


def fit(
    sizes: Sequence[float] | np.ndarray, errors: Sequence[float] | np.ndarray, spread: np.ndarray | None = None,
    floor: float | None = None,
) -> Law:  # fmt: skip
    """Fit the law to one error per size by least squares (SciPy), with their standard errors `spread` if given.

    `floor` fixes the floor. Needs at least one size more than unknowns.
    """
    from scipy.optimize import curve_fit

    sizes, errors = np.asarray(sizes, dtype=float), np.asarray(errors, dtype=float)
    start = fit_many(sizes, errors[None], spread, floor)[0]
    weights = {"sigma": np.maximum(spread, 1e-9)} if spread is not None else {}
    top = max(float(errors.max()), 1e-9)
    values, ends = (start.height, start.slope, start.floor), (10 * top, STEEPEST, top)
    free = 3 if floor is None else 2
    inside = [min(max(value, 1e-6 * end), (1 - 1e-6) * end) for value, end in zip(values, ends, strict=True)]

    def error(x: np.ndarray, height: float, slope: float, low: float = floor or 0.0) -> np.ndarray:
        return low + height * x**-slope

    found, _ = curve_fit(
        error, sizes / start.centre, errors, p0=inside[:free], bounds=(0, ends[:free]), maxfev=20_000, **weights
    )
    height, slope, *low = map(float, found)
    return Law(height, slope, low[0] if floor is None else floor, start.centre)


def fit_many(
    sizes: np.ndarray, errors: np.ndarray, spread: np.ndarray | None = None, floor: float | None = None
) -> list[Law]:
    """Fit the law to every line of `errors` (curves, sizes): for each slope of a grid, height and floor come from a
    straight-line fit; the slope with the smallest squared error is kept."""
    centre = centre_of(sizes)
    weights = 1 / np.maximum(np.asarray(spread, dtype=float), 1e-9) ** 2 if spread is not None else np.ones(len(sizes))
    weights = weights / weights.sum()
    x = (np.asarray(sizes, dtype=float) / centre)[None] ** -SLOPES[:, None]  # (slopes, sizes)
    mean_x, mean_y = x @ weights, errors @ weights
    cross = (errors * weights) @ x.T  # (curves, slopes)
    if floor is None:
        spread_x = (x**2) @ weights - mean_x**2
        height = np.maximum((cross - mean_y[:, None] * mean_x) / spread_x, 0.0)
        low = mean_y[:, None] - height * mean_x
        through_zero = cross / ((x**2) @ weights)
        height, low = np.where(low < 0, np.maximum(through_zero, 0.0), height), np.maximum(low, 0.0)
    else:
        low = np.full_like(cross, floor)
        height = np.maximum((cross - floor * mean_x) / ((x**2) @ weights), 0.0)
    fitted = low[:, :, None] + height[:, :, None] * x
    loss = ((errors[:, None] - fitted) ** 2) @ weights
    best = loss.argmin(axis=1)
    line = np.arange(len(errors))
    return [Law(float(h), float(SLOPES[k]), float(c), centre)
            for h, k, c in zip(height[line, best], best, low[line, best], strict=True)]  # fmt: skip


def resample_errors(values: Sequence[np.ndarray], clusters: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Return mean errors (resamples, sizes) for resampled test rows and seeds.

    `values` holds for each size an array (seeds, rows) of errors. Rows (whole clusters) are drawn once for all sizes,
    because they are the same rows. Seeds are drawn per size, and their deviations are multiplied by sqrt(k / (k - 1)),
    because the resampled spread of k seeds is too small. With one seed their spread is unknown.
    """
    from linklab.metrics.intervals import resample_counts

    rng = np.random.default_rng([seed, 1])
    found = []
    for counts in resample_counts(clusters, resamples, seed):
        shares = counts / counts.sum(axis=1, keepdims=True)
        columns = []
        for lines in values:
            k = len(lines)
            drawn = rng.multinomial(k, np.full(k, 1 / k), size=len(shares)) / k
            wide = 1 / k + (drawn - 1 / k) * (math.sqrt(k / (k - 1)) if k > 1 else 1.0)
            columns.append(((shares @ lines.T) * wide).sum(axis=1))
        found.append(np.stack(columns, axis=1))
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True)
class Curve:
    """A fitted law, with the laws fitted to its resamples."""

    law: Law
    resampled: Sequence[Law]
    largest: float
    smallest: float
    floor_known: bool

    def interval(self, part: str) -> tuple[float, float]:
        """Return the 95 % interval of "height", "slope" or "floor"."""
        return interval_of(np.array([getattr(law, part) for law in self.resampled]))

    def band(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the 95 % interval of the error at each of these rows."""
        errors = np.array([law.error(rows) for law in self.resampled])
        low, high = np.quantile(errors, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high


def fit_curve(
    sizes: Sequence[int], values: Sequence[np.ndarray], clusters: np.ndarray, *, floor: float | None = None,
    resamples: int = 1000, seed: int = 0,
) -> Curve | str:  # fmt: skip
    """Return the fitted curve, or the reason why none can be fitted.

    With fewer than four sizes the floor must be known: three unknowns fit any three points.
    """
    at = np.asarray(sizes, dtype=float)
    if len(sizes) < FREE_FLOOR_SIZES - (floor is not None):
        known = "" if floor is not None else f" ({FREE_FLOOR_SIZES - 1} if the generator's ceiling is known)"
        return f"no law fitted: {len(sizes)} sizes, and at least {FREE_FLOOR_SIZES} are needed{known}"
    fixed = floor if len(sizes) < FREE_FLOOR_SIZES else None
    errors = np.array([lines.mean() for lines in values])
    drawn = resample_errors(values, clusters, resamples, seed)
    spread = drawn.std(axis=0)
    spread = np.maximum(spread, max(SMALLEST_SPREAD * spread.max(), 1e-6 * errors.max(), 1e-9))
    curve = Curve(
        fit(at, errors, spread, fixed), fit_many(at, drawn, spread, fixed), float(at.max()),
        float(at.min()), fixed is not None,
    )  # fmt: skip
    falls = drawn[:, 0] - drawn[:, -1]
    if np.quantile(falls, (1 - LEVEL) / 2) <= 0:
        return (f"no law fitted: from {at.min():,.0f} to {at.max():,.0f} rows the error has not fallen by more "
                f"than chance")  # fmt: skip
    misses = np.abs(errors - curve.law.error(at)) / spread
    if misses.max() > WORST_MISS:
        worst = int(misses.argmax())
        return (f"no law fitted: no power law fits these sizes (at {at[worst]:,.0f} rows the best one is "
                f"{misses[worst]:.0f} standard errors away): the error falls in a step, so larger sizes cannot be "
                f"predicted")  # fmt: skip
    return curve


@dataclasses.dataclass(frozen=True)
class RowsNeeded:
    """Rows at which an error is reached, with a 95 % interval; `refusal` says why there is no number."""

    rows: float
    low: float
    high: float
    refusal: str = ""


def rows_needed(curve: Curve, error: float) -> RowsNeeded:
    """Return how many rows an error needs, up to ten times the largest size (FARTHEST)."""
    estimates = np.array([law.rows_for(error) for law in curve.resampled])
    rows = curve.law.rows_for(error)
    low, high = (float(np.quantile(estimates, q, method="nearest")) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    limit = FARTHEST * curve.largest
    refusal = ""
    if high < curve.smallest:
        refusal = f"fewer than the smallest size, {curve.smallest:,.0f} rows"
    elif not (rows <= limit and high <= limit):
        least = f"at least {_round(low):,.0f} rows; " if curve.smallest < low < limit else ""
        never = float(np.isinf(estimates).mean())
        late = float((estimates > limit).mean())
        beyond = f"{late:.0%} of the resampled curves reach it only beyond {limit:,.0f} rows"
        if never:
            beyond += f", {never:.0%} never"
        refusal = f"the data cannot say: {least}{beyond}; measure larger sizes or more seeds"
    return RowsNeeded(rows, low, high, refusal)


def _round(rows: float) -> float:
    """Return a number of rows with two digits; it is not more precise than that."""
    return float(f"{rows:.2g}")


def format_rows_needed(needed: RowsNeeded) -> str:
    """Return "about 2,100 rows [1,500, 3,900]", or the refusal."""
    if needed.refusal:
        return needed.refusal
    return f"about {_round(needed.rows):,.0f} rows [{_round(needed.low):,.0f}, {_round(needed.high):,.0f}]"


def interval_of(values: np.ndarray) -> tuple[float, float]:
    """Return the middle 95 % of resampled values."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
