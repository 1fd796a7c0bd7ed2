"""Drift figures agree with SciPy and with hand-computed sums."""

from collections import Counter

import numpy as np
import pytest
from linklab.validation import drift
from scipy import stats


@pytest.mark.parametrize(("shift", "n", "m"), [(0.0, 400, 700), (0.3, 500, 500), (5.0, 50, 80)])
@pytest.mark.parametrize("decimals", [0, 6])
def test_ks_is_that_of_scipy_with_and_without_ties(shift, n, m, decimals):
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 2, n).round(decimals), rng.normal(shift, 2, m).round(decimals)
    assert drift.ks_statistic(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)


def test_psi_and_total_variation_of_known_shares():
    p, q = np.array([50, 50]), np.array([25, 75])
    assert drift.population_stability_index(p, q) == pytest.approx(-0.25 * np.log(0.5) + 0.25 * np.log(1.5))
    assert drift.total_variation(p, q) == 0.25
    assert drift.population_stability_index(p, 3 * p) == drift.total_variation(p, 3 * p) == 0
    assert drift.total_variation(np.array([1, 0]), np.array([0, 1])) == 1
    assert np.isfinite(drift.population_stability_index(np.array([10, 0]), np.array([0, 10])))


def test_ks_critical_value_is_the_asymptotic_one():
    n, m = 400, 700
    critical = drift.KS_AT_1_PERCENT * np.sqrt((n + m) / (n * m))
    assert stats.kstwobign.sf(critical * np.sqrt(n * m / (n + m))) == pytest.approx(0.01, abs=1e-4)


def test_few_values_get_one_bin_each_and_many_get_deciles():
    p, q = drift.bin_counts(np.repeat([0.0, 0.5, 2.0], [60, 20, 20]), np.array([0.0, 2.0, 2.0, 7.0]))
    assert p.tolist() == [60, 20, 20] and q.tolist() == [1, 0, 3]
    p, q = drift.bin_counts(np.arange(1000.0), np.arange(500.0))
    assert p.tolist() == [100] * 10 and q.tolist() == [100] * 5 + [0] * 5


def test_verdicts_and_words_that_only_one_file_has():
    same = drift.compare_numbers(np.arange(100.0), np.arange(100.0))
    assert (same["verdict"], same["ks"], same["psi"]) == ("stable", 0, 0)
    assert drift.compare_numbers(np.arange(100.0), np.arange(50.0, 150.0))["verdict"] == "drifted"
    words = drift.compare_classes(Counter(a=90, b=10), Counter(a=75, c=25))
    assert words["only_in_reference"] == ["b"] and words["only_in_current"] == ["c"] and words["verdict"] == "drifted"
    assert drift.compare_classes(Counter(a=60, b=40), Counter(a=40, b=60))["verdict"] == "shifted"
