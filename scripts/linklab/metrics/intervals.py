"""Uncertainty of metrics: intervals for shares and means, paired tests, the smallest difference n rows can show."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)
LEVEL = 0.95
Z = 1.959963984540054  # LEVEL of a normal distribution is within this many standard deviations of its mean
Z_POWER = 0.8416212335729143  # and 80 % of it is below this many: the power of a planned comparison
RESAMPLES = 2000  # bootstrap; the ends of a 95 % interval then rest on 50 resamples each
FLIPS = 9999  # sign-flip test; the smallest p it can give is 1e-4
_CELLS = 4_000_000  # resample counts held at once (32 MB), for any n


def wilson(successes: float, n: float, z: float = Z) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927), the ends clipped to [0, 1]. `n` > 0, may be effective.

    Among simple intervals its coverage is closest to its level for small n and shares near 0 or 1; there the bootstrap
    and the normal interval collapse to a point. `z` is its half-width in standard deviations.
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

    `only_first` and `only_second` count the rows that only one of the two gets right; all may be effective numbers. If
    they never differ, the interval is not a point: n rows without a difference still allow one of z^2 / (n + z^2).
    """
    from scipy.optimize import brentq

    found = (only_first - only_second) / n

    def beyond(difference: float, sign: int) -> float:
        """Return how far the counts are outside the range expected for a true `difference`, on the side of `sign`."""
        linear = (2 * n - only_first + only_second) * difference - only_first - only_second
        constant = -only_second * difference * (1 - difference)
        second = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)  # its most likely share
        variance = n * (2 * second + difference * (1 - difference))
        return sign * (n * (found - difference)) - z * math.sqrt(max(0.0, variance))

    # The variance can be 0 at the observed difference, which is no end of the interval: start just beside it.
    low = brentq(beyond, -1.0, found - 1e-9, args=(1,)) if found > -1 else -1.0
    high = brentq(beyond, found + 1e-9, 1.0, args=(-1,)) if found < 1 else 1.0
    return low, high


def effective_n(values: np.ndarray, clusters: np.ndarray) -> float:
    """Return how many independent rows tell as much about a mean as these rows (n over the design effect, Kish 1965).

    Rows of one group resemble each other: ten links of one site tell less than ten links of ten sites. Never above n.
    """
    values = np.asarray(values, dtype=float)
    n, n_clusters = len(values), int(clusters.max()) + 1
    independent = values.var() / n
    if n_clusters in (1, n) or independent == 0:
        return float(n)
    residuals = np.bincount(clusters, weights=values - values.mean())
    clustered = n_clusters / (n_clusters - 1) * float((residuals**2).sum()) / n**2
    return n / max(1.0, clustered / independent)


def _effective_n_and_width(values: np.ndarray, clusters: np.ndarray | None) -> tuple[float, float]:
    """Return the effective n, and the half-width in standard deviations that gives LEVEL with this few clusters.

    The similarity of a cluster's rows is estimated from the clusters, so Student's t with (clusters - 1) degrees of
    freedom replaces the normal distribution (Korn and Graubard 1998). For two clusters the half-width is 12.7; as a
    level it would round to 1, and the interval would be NaN.
    """
    from scipy.special import stdtrit

    n = len(values) if clusters is None else effective_n(values, clusters)
    if clusters is not None and n < len(values):
        return n, float(stdtrit(int(clusters.max()), 0.5 + LEVEL / 2))
    return n, Z


def share_interval(hits: np.ndarray, clusters: np.ndarray | None = None) -> tuple[float, float]:
    """Return Wilson's interval of the share of ones in `hits`, wider for rows in clusters."""
    hits = np.asarray(hits, dtype=float)
    n, z = _effective_n_and_width(hits, clusters)
    return wilson(float(hits.mean()) * n, n, z)


def share_difference_interval(differences: np.ndarray, clusters: np.ndarray | None = None) -> tuple[float, float]:
    """Return Tango's interval of the mean of `differences`, wider for rows in clusters.

    A difference is 1 if only the first of two runs gets the row right, -1 if only the second does, else 0.
    """
    differences = np.asarray(differences, dtype=float)
    n, z = _effective_n_and_width(differences, clusters)
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

    For few clusters the interval is wider (`small_sample_level`): plain percentiles would cover too little.
    A statistic maps counts (resamples, rows) to one value per resample; NaN (undefined there) is ignored.
    """
    values: dict[Name, list[np.ndarray]] = {name: [] for name in statistics}
    for counts in resample_counts(clusters, resamples, seed):
        for name, statistic in statistics.items():
            values[name].append(statistic(counts))
    level = small_sample_level(int(clusters.max()) + 1)
    return {name: percentile_interval(np.concatenate(parts), level) for name, parts in values.items()}


def small_sample_level(n: int) -> float:
    """Return the level of percentiles that covers LEVEL with n independent units: 0.968 for 20, 0.9502 for 2,000.

    Resamples of n units vary too little, by sqrt((n - 1) / n), and percentiles, unlike Student's t, ignore that the
    spread is estimated (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", the expanded percentile).
    """
    from scipy.special import ndtr, stdtrit

    if n < 2:
        return LEVEL
    return float(2 * ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.5 + LEVEL / 2)) - 1)


def percentile_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Return the middle `level` of the values that are not NaN; NaN if there are none, or if all are equal.

    Equal resamples do not show how other rows would vary: an interval of one point would claim certainty.
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

    Exact under that hypothesis for any distribution (Fisher's randomisation test); 1 if nothing differs.
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
    """Return Holm's adjusted p-values (Holm 1979), in the order given: each is valid for the whole family."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def smallest_detectable_difference(low: float, high: float) -> float:
    """Return the true difference that rows as variable as these detect in 80 % of repeats (normal approximation).

    `low` and `high` are the ends of the difference's interval. A smaller true difference will often not be detected,
    whatever this test says. NaN if the interval is a point: then the rows do not show how they vary.
    """
    return (Z + Z_POWER) / Z * (high - low) / 2 if high > low else math.nan
