"""Drift between the values of two files: KS, PSI and total variation per column."""

from __future__ import annotations

from collections import Counter

import numpy as np

N_BINS = 10
# Siddiqi, Credit Risk Scorecards (2006): below .1 no change, above .25 another population.
SHIFTED_PSI, DRIFTED_PSI = 0.1, 0.25
KS_AT_1_PERCENT = 1.628  # asymptotic critical value, times sqrt((n + m) / (n m))


def ks_statistic(reference: np.ndarray, current: np.ndarray) -> float:
    """Return the largest distance between the two empirical distribution functions, 0..1."""
    reference, current = np.sort(reference), np.sort(current)
    points = np.concatenate([reference, current])
    below_reference = np.searchsorted(reference, points, side="right") / len(reference)
    below_current = np.searchsorted(current, points, side="right") / len(current)
    return float(np.abs(below_reference - below_current).max())


def population_stability_index(reference: np.ndarray, current: np.ndarray) -> float:
    """Return sum (p - q) ln(p / q) over the shares of the same bins; an empty bin counts as half an observation."""
    p, q = (np.maximum(counts, 0.5) / max(counts.sum(), 1) for counts in (reference, current))
    return float(((q - p) * np.log(q / p)).sum())


def total_variation(reference: np.ndarray, current: np.ndarray) -> float:
    """Return half the summed difference of the shares, 0 (the same) .. 1 (nothing in common)."""
    return float(0.5 * np.abs(reference / max(reference.sum(), 1) - current / max(current.sum(), 1)).sum())


def bin_counts(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count both in the same bins: one per value if the reference has few values, else between its deciles."""
    values = np.unique(reference)
    if len(values) <= 2 * N_BINS:
        edges = (values[1:] + values[:-1]) / 2
    else:
        edges = np.unique(np.quantile(reference, np.linspace(0, 1, N_BINS + 1)[1:-1]))
    n_bins = len(edges) + 1
    old, new = (
        np.bincount(np.searchsorted(edges, part, side="left"), minlength=n_bins) for part in (reference, current)
    )
    return old, new


def compare_numbers(reference: np.ndarray, current: np.ndarray) -> dict:
    """Return the drift of a number column from samples of both files."""
    p, q = bin_counts(reference, current)
    n, m = len(reference), len(current)
    return _with_verdict(
        {
            "ks": round(ks_statistic(reference, current), 4),
            "ks_critical_1pct": round(KS_AT_1_PERCENT * float(np.sqrt((n + m) / (n * m))), 4),
            "psi": round(population_stability_index(p, q), 4),
            "total_variation": round(total_variation(p, q), 4),
            "mean": [float(f"{reference.mean():.6g}"), float(f"{current.mean():.6g}")],
        }
    )


def compare_classes(reference: Counter, current: Counter) -> dict:
    """Return the drift of a class column from the exact counts of both files."""
    words = sorted(set(reference) | set(current))
    p, q = (np.array([counts[word] for word in words], float) for counts in (reference, current))
    return _with_verdict(
        {
            "psi": round(population_stability_index(p, q), 4),
            "total_variation": round(total_variation(p, q), 4),
            "only_in_reference": [word for word in words if not current[word]],
            "only_in_current": [word for word in words if not reference[word]],
        }
    )


def _with_verdict(figures: dict) -> dict:
    psi = figures["psi"]
    return figures | {"verdict": "stable" if psi < SHIFTED_PSI else "shifted" if psi < DRIFTED_PSI else "drifted"}
