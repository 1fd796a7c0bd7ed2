"""How sure a figure is: intervals for shares and means, paired tests, and the smallest difference n rows can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)
LEVEL = 0.95
Z = 1.959963984540054  # standard deviations to both sides that hold LEVEL of a normal
Z_POWER = 0.8416212335729143  # and those that hold 80 % below them: the power of a planned comparison
RESAMPLES = 2000  # bootstrap; the ends of a 95 % interval then rest on 50 resamples each
FLIPS = 9999  # sign-flip test; the smallest p it can give is 1e-4
_CELLS = 4_000_000  # resample counts held at once (32 MB), whatever n is


def wilson(successes: float, n: float, z: float = Z) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927), the ends clipped to [0, 1]. `n` > 0, may be effective.

    Of the simple intervals it keeps nearest to its level for small n and shares near 0 or 1, where the bootstrap and
    the normal interval collapse to a point. It reaches `z` standard deviations to both sides.
    """
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n the formula gives the end exactly; rounding would leave it at 1e-17.
    low = 0.0 if successes <= 0 else max(0.0, centre - half)
    high = 1.0 if successes >= n else min(1.0, centre + half)
    return low, high


def number_clusters(groups: Sequence[str]) -> np.ndarray:
    """Return the cluster number of each row: ["a", "b", "a"] -> [0, 1, 0]."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(group, len(seen)) for group in groups], dtype=np.int64)


def tango(only_first: float, only_second: float, n: float, z: float) -> tuple[float, float]:
    """Return Tango's score interval of the difference of two shares on the same n rows (Tango 1998).

    `only_first` and `only_second` count the rows that one of the two has and the other has not; all may be effective
    numbers. Where they never differ, the interval is not a point: n rows without a difference allow z^2 / (n + z^2).
    """
    from scipy.optimize import brentq

    found = (only_first - only_second) / n

    def beyond(difference: float, sign: int) -> float:
        """Return how far the rows lie outside what a true `difference` lets expect, on the side of `sign`."""
        linear = (2 * n - only_first + only_second) * difference - only_first - only_second
        constant = -only_second * difference * (1 - difference)
        second = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)  # its likeliest share
        variance = n * (2 * second + difference * (1 - difference))
        return sign * (n * (found - difference)) - z * math.sqrt(max(0.0, variance))

    # The variance can vanish at the difference found, which is not an end of the interval: begin just beside it.
    low = brentq(beyond, -1.0, found - 1e-9, args=(1,)) if found > -1 else -1.0
    high = brentq(beyond, found + 1e-9, 1.0, args=(-1,)) if found < 1 else 1.0
    return low, high


def effective_n(values: np.ndarray, clusters: np.ndarray) -> float:
    """Return how many independent rows say as much about a mean as these do (n over the design effect, Kish 1965).

    Rows of one group resemble each other: ten links of one site are fewer than ten sites. Never above n.
    """
    values = np.asarray(values, dtype=float)
    n, n_clusters = len(values), int(clusters.max()) + 1
    independent = values.var() / n
    if n_clusters in (1, n) or independent == 0:
        return float(n)
    residuals = np.bincount(clusters, weights=values - values.mean())
    clustered = n_clusters / (n_clusters - 1) * float((residuals**2).sum()) / n**2
    return n / max(1.0, clustered / independent)


def _count_clusters(values: np.ndarray, clusters: np.ndarray | None) -> tuple[float, float]:
    """Return the effective n, and the standard deviations that hold LEVEL with so few clusters.

    How alike a cluster's rows are is guessed from the clusters, so Student's t with one degree of freedom less than
    their number takes the normal's place (Korn and Graubard 1998). For two clusters that is 12.7: given as a level it
    would be 1, and the interval NaN.
    """
    from scipy.special import stdtrit

    n = len(values) if clusters is None else effective_n(values, clusters)
    if clusters is not None and n < len(values):
        return n, float(stdtrit(int(clusters.max()), 0.5 + LEVEL / 2))
    return n, Z


def share_interval(hits: np.ndarray, clusters: np.ndarray | None = None) -> tuple[float, float]:
    """Return Wilson's interval of the share of ones in `hits`, widened where rows come in clusters."""
    hits = np.asarray(hits, dtype=float)
    n, z = _count_clusters(hits, clusters)
    return wilson(float(hits.mean()) * n, n, z)


def share_difference_interval(differences: np.ndarray, clusters: np.ndarray | None = None) -> tuple[float, float]:
    """Return Tango's interval of the mean of `differences`, widened where rows come in clusters.

    A difference is 1 where only the first of two runs has the row (is right, say), -1 where only the second has it.
    """
    differences = np.asarray(differences, dtype=float)
    n, z = _count_clusters(differences, clusters)
    return tango(float((differences > 0).mean()) * n, float((differences < 0).mean()) * n, n, z)


def resample_counts(clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield blocks (resamples, rows) of how often each row is drawn; whole clusters are drawn with replacement."""
    rng = np.random.default_rng(seed)
    n_clusters = int(clusters.max()) + 1
    one_each = n_clusters == len(clusters) and np.array_equal(clusters, np.arange(n_clusters))
    block = max(1, _CELLS // len(clusters))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = rng.integers(0, n_clusters, size=(size, n_clusters))
        flat = (draws + np.arange(size)[:, None] * n_clusters).ravel()
        counts = np.bincount(flat, minlength=size * n_clusters).reshape(size, n_clusters).astype(float)
        yield counts if one_each else counts[:, clusters]


def bootstrap(
    statistics: Mapping[Name, Callable[[np.ndarray], np.ndarray]], clusters: np.ndarray, *, resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[Name, tuple[float, float]]:  # fmt: skip
    """Return the percentile interval of each statistic; all are taken on the same resamples.

    The ends stand further out for few clusters (`small_sample_level`), where the plain percentiles cover too little.
    A statistic maps counts (resamples, rows) to one value a resample, NaN where it does not exist there: left out.
    """
    values: dict[Name, list[np.ndarray]] = {name: [] for name in statistics}
    for counts in resample_counts(clusters, resamples, seed):
        for name, statistic in statistics.items():
            values[name].append(statistic(counts))
    level = small_sample_level(int(clusters.max()) + 1)
    return {name: percentile_interval(np.concatenate(parts), level) for name, parts in values.items()}


def small_sample_level(n: int) -> float:
    """Return the level whose percentiles cover LEVEL of n independent units: 0.968 for 20, 0.9502 for 2,000.

    Resampling n units spreads less than n units do, by sqrt((n - 1) / n), and takes their spread for the true one where
    Student's t does not (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", the expanded percentile).
    """
    from scipy.special import ndtr, stdtrit

    if n < 2:
        return LEVEL
    return float(2 * ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.5 + LEVEL / 2)) - 1)


def percentile_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Return the middle `level` of the values that exist; NaN where there are none, or where all are the same.

    Resamples that never vary say nothing of how other rows would: a point would claim to be sure.
    """
    values = values[~np.isnan(values)]
    if not len(values) or values.min() == values.max():
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_statistic(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the statistic that averages `values` under given counts."""
    values = np.asarray(values, dtype=float)
    return lambda counts: counts @ values / counts.sum(axis=1)


def sign_flip_p(differences: np.ndarray, clusters: np.ndarray, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p of "the two runs are exchangeable" by flipping the sign of whole clusters.

    Exact under that hypothesis whatever the distribution (Fisher's randomisation test); 1 when nothing differs.
    """
    sums = np.bincount(clusters, weights=np.asarray(differences, dtype=float))
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    rng = np.random.default_rng(seed)
    observed = abs(sums.sum())
    block, beyond = max(1, _CELLS // len(sums)), 0
    for start in range(0, flips, block):
        signs = rng.integers(0, 2, size=(min(block, flips - start), len(sums)), dtype=np.int8)
        totals = 2 * (signs @ sums) - sums.sum()
        beyond += int((np.abs(totals) >= observed * (1 - 1e-12)).sum())
    return (1 + beyond) / (1 + flips)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test from the two discordant counts; 1 when there are none."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return 1.0 if discordant == 0 else float(binomtest(only_first, discordant, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (Holm 1979), in the order given: each is safe over the whole family."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def smallest_detectable_difference(low: float, high: float) -> float:
    """Return the difference that rows as varied as these would show in 80 % of repeats (normal approximation).

    `low` and `high` are the ends of the difference's interval. A true difference below it will usually look like none
    at all, however the test comes out. NaN where the interval is a point: such rows say nothing of how they vary.
    """
    return (Z + Z_POWER) / Z * (high - low) / 2 if high > low else math.nan
