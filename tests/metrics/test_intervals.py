"""Intervals have their coverage, tests their error rate: against SciPy, exact sums and brute force."""

import itertools
import math

import bench_intervals
import numpy as np
import pytest
from linklab.metrics import intervals
from scipy import optimize, stats


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (1, 20), (13, 20), (20, 20), (1, 1), (0, 1), (871, 1000), (2, 19837)])
def test_wilson_equals_scipys(hits, n):
    theirs = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert intervals.wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_stays_inside_the_unit_interval_and_touches_its_ends():
    assert intervals.wilson(0, 40)[0] == 0.0
    assert intervals.wilson(40, 40)[1] == 1.0


@pytest.mark.parametrize(
    ("n", "least", "most"),
    [(20, 0.924, 0.980), (50, 0.921, 0.979), (100, 0.933, 0.972), (400, 0.94, 0.965), (2000, 0.94, 0.965)],
)
def test_wilson_covers_about_95_percent_whatever_the_share(n, least, most):
    """Exact binomial sums over shares .02 to .98.

    From n = 400 every share is within 94 to 96.5 %. Below, counts are whole numbers, and one more or less of them
    inside the interval moves the coverage by up to 3 points; the mean over shares is near 95 % at every n.
    """
    covered = [bench_intervals.wilson_coverage(n, share) for share in np.linspace(0.02, 0.98, 49)]
    assert 0.948 <= np.mean(covered) <= 0.954
    assert least <= min(covered) <= max(covered) <= most


def test_exact_coverage_agrees_with_a_simulation():
    rng = np.random.default_rng(0)
    counts = rng.binomial(50, 0.3, size=20_000)
    ends = {k: intervals.wilson(k, 50) for k in set(counts.tolist())}
    simulated = np.mean([ends[k][0] <= 0.3 <= ends[k][1] for k in counts.tolist()])
    assert simulated == pytest.approx(bench_intervals.wilson_coverage(50, 0.3), abs=0.005)


def test_bootstrap_interval_of_a_skewed_mean_keeps_near_its_level():
    """Regret-like values: mostly 0, a long tail. n = 200; 400 data sets, 400 resamples each."""
    rng = np.random.default_rng(1)
    n, true_mean, inside = 200, 0.3 * 0.2, 0
    for seed in range(400):
        values = (rng.random(n) < 0.3) * rng.exponential(0.2, n)
        statistic = {"mean": intervals.mean_statistic(values)}
        low, high = intervals.bootstrap(statistic, np.arange(n), resamples=400, seed=seed)["mean"]
        inside += low <= true_mean <= high
    assert 0.915 <= inside / 400 <= 0.975


def test_bootstrap_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(2).gamma(2, size=150)
    ours = intervals.bootstrap({"mean": intervals.mean_statistic(values)}, np.arange(150), resamples=20_000)["mean"]
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.02)


@pytest.mark.parametrize(("n", "t"), [(2, 12.706), (20, 2.0930), (2000, 1.9612)])
def test_few_rows_widen_the_bootstrap_interval_like_students_t(n, t):
    """For a mean of normal values the interval is the textbook's: mean ± t s / sqrt(n)."""
    level = intervals.small_sample_level(n)
    half_width = stats.norm.ppf(0.5 + level / 2) * math.sqrt((n - 1) / n)  # resampling's own spread is that much small
    if n > 2:  # 12.7 standard errors are all of the resamples
        assert half_width == pytest.approx(t, abs=5e-4)
    assert 0.95 < level <= 1
    values = np.random.default_rng(n).normal(size=n)
    ends = intervals.bootstrap({"mean": intervals.mean_statistic(values)}, np.arange(n), resamples=4000)["mean"]
    if n == 20:
        width = 2 * t * values.std(ddof=1) / math.sqrt(n)
        assert ends[1] - ends[0] == pytest.approx(width, rel=0.05)  # the plain percentiles' is 9 % narrower


def test_resample_counts_draw_whole_clusters_and_do_not_depend_on_the_block_size(monkeypatch):
    clusters = np.array([0, 0, 1, 2, 2, 2])
    counts = np.concatenate(list(intervals.resample_counts(clusters, 500, seed=4)))
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert counts[:, [0, 2, 3]].mean(axis=0) == pytest.approx([1, 1, 1], abs=0.15)
    monkeypatch.setattr(intervals, "_CELLS", 7 * 6)
    assert np.array_equal(np.concatenate(list(intervals.resample_counts(clusters, 500, seed=4))), counts)


def test_clusters_widen_the_interval_of_a_share():
    """20 groups of 10 equal rows say as much as 20 rows."""
    hits = np.repeat(np.arange(20) % 2, 10)
    clusters = np.repeat(np.arange(20), 10)
    assert intervals.effective_n(hits, clusters) == pytest.approx(19.0)  # 20 groups, sample variance
    grouped, alone = intervals.share_interval(hits, clusters), intervals.share_interval(hits)
    # Student's t with 19 degrees of freedom, 2.093, where 20 independent rows would have the normal's 1.960.
    assert grouped == pytest.approx(intervals.wilson(9.5, 19.0, z=2.0930240544))
    assert grouped[0] < alone[0] < alone[1] < grouped[1]


def test_independent_rows_keep_their_n():
    hits = np.array([1, 0, 0, 1, 1])
    assert intervals.effective_n(hits, np.arange(5)) == 5
    assert intervals.share_interval(hits, np.arange(5)) == intervals.wilson(3, 5)


def test_rows_that_do_not_differ_have_no_smallest_detectable_difference():
    assert math.isnan(intervals.smallest_detectable_difference(0.0, 0.0))


def tango(first, second, n, level=0.95):
    return intervals.tango(first, second, n, stats.norm.ppf(0.5 + level / 2))


@pytest.mark.parametrize(
    ("first", "second", "n", "level", "low", "high"),
    [
        (1, 7, 21, 0.95, -0.517, -0.026),  # Fagerland, Lydersen, Laake (2014): airways before and after a transplant
        (28, 25, 618, 0.90, -0.0148, 0.0247),  # R, PropCIs 0.3: scoreci.mp(25, 28, 618, 0.90)
    ],
)
def test_tango_equals_published_values(first, second, n, level, low, high):
    assert tango(first, second, n, level) == pytest.approx((low, high), abs=5e-4 if n == 21 else 5e-5)


def _score(difference, first, second, n):
    """Tango's statistic with the nuisance share found by searching the likelihood, not by its formula."""

    def cost(share):  # of rows only the second has
        parts = ((first, share + difference), (second, share), (n - first - second, 1 - 2 * share - difference))
        return -sum(count * math.log(max(chance, 1e-300)) for count, chance in parts if count)

    ends = max(0.0, -difference), min(1.0, (1 - difference) / 2)
    share = optimize.minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    return (first - second - n * difference) / math.sqrt(n * (2 * share + difference - difference**2))


@pytest.mark.parametrize(
    ("first", "second", "n"), [(3, 9, 40), (9, 3, 40), (0, 6, 25), (30, 2, 60), (120, 90, 1000), (5, 5, 12)]
)
def test_tango_ends_where_the_score_test_rejects(first, second, n):
    low, high = tango(first, second, n)
    assert -1 <= low < (first - second) / n < high <= 1
    assert _score(low, first, second, n) == pytest.approx(1.959964, abs=2e-3)
    assert _score(high, first, second, n) == pytest.approx(-1.959964, abs=2e-3)
    assert tango(second, first, n) == pytest.approx((-high, -low), abs=1e-9)
    if first != second:  # at a difference of 0 it is McNemar's test without a correction
        p = stats.chi2.sf((first - second) ** 2 / (first + second), 1)
        assert min(map(abs, tango(first, second, n, 1 - p))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [1, 12, 400])
def test_runs_that_never_differ_still_get_an_interval(n):
    low, high = tango(0, 0, n)
    assert high == pytest.approx(1.959964**2 / (n + 1.959964**2)) and low == pytest.approx(-high)
    assert tango(n, 0, n)[1] == 1.0 and tango(0, n, n)[0] == -1.0


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.1), (0.2, 0.1), (0.3, 0.05), (0.1, 0.0), (0.02, 0.02)])
def test_tango_covers_95_percent_or_more_of_small_sets(first, second):
    """The exact chance over all outcomes of 40 rows; the bootstrap covers 88 % of 20 rows at .1 and 0."""
    n, covered = 40, 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            chance = stats.multinomial.pmf([a, b, n - a - b], n, [first, second, 1 - first - second])
            if chance > 1e-9:
                low, high = tango(a, b, n)
                covered += chance * (low <= first - second <= high)
    assert 0.925 <= covered <= 1


def test_clusters_widen_the_interval_of_a_difference():
    """20 groups of 10 equal rows say as much as 20 rows."""
    differences = np.repeat(np.arange(20) % 4 - 1.0, 10).clip(-1, 1)
    clusters = np.repeat(np.arange(20), 10)
    n = intervals.effective_n(differences, clusters)
    assert n == pytest.approx(19.0)
    grouped = intervals.share_difference_interval(differences, clusters)
    expected = tango(0.5 * n, 0.25 * n, n, level=2 * stats.norm.cdf(2.0930240544) - 1)
    assert grouped == pytest.approx(expected)
    alone = intervals.share_difference_interval(differences)
    assert alone == tango(100, 50, 200) and grouped[0] < alone[0] < alone[1] < grouped[1]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_however_few_rows_in_however_few_groups_an_interval_holds_its_mean(n):
    """Every set of n rows in every number of groups: with two groups Student's t is 12.7, beyond any level below 1."""
    for clusters in (np.array([0] * (n - k) + list(range(1, k + 1))) for k in range(n)):
        for values in map(np.array, itertools.product((-1, 0, 1), repeat=n)):
            low, high = intervals.share_difference_interval(values, clusters)
            assert -1 <= low <= values.mean() + 1e-12 and values.mean() - 1e-12 <= high <= 1
            if values.min() >= 0:
                low, high = intervals.share_interval(values, clusters)
                assert 0 <= low <= values.mean() + 1e-12 and values.mean() - 1e-12 <= high <= 1


def test_two_groups_of_equal_rows_give_a_very_wide_interval():
    """Wilson's half width at a half is z / (2 sqrt(n + z^2)); n here is 1: two groups and their sample variance."""
    low, high = intervals.share_interval(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    z = 12.7062
    assert (high - low) / 2 == pytest.approx(z / (2 * math.sqrt(1 + z * z)), abs=1e-6)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (2, 9), (40, 61)])
def test_mcnemar_is_the_exact_binomial_sum(first, second):
    n = first + second
    tail = sum(math.comb(n, k) for k in range(min(first, second) + 1)) / 2**n
    assert intervals.mcnemar_p(first, second) == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_sign_flip_p_is_that_of_every_flip():
    differences = np.array([0.4, -0.1, 0.25, 0.0, 0.6, 0.3, -0.2, 0.15])
    totals = [abs(np.dot(signs, differences)) for signs in itertools.product([-1, 1], repeat=8)]
    exact = np.mean(np.array(totals) >= abs(differences.sum()) - 1e-12)
    assert intervals.sign_flip_p(differences, np.arange(8), flips=40_000) == pytest.approx(exact, abs=0.01)


def test_sign_flip_p_of_equal_runs_is_one():
    assert intervals.sign_flip_p(np.zeros(30), np.arange(30)) == 1.0


@pytest.mark.parametrize("groups_of", [1, 5])
def test_paired_tests_reject_at_most_5_percent_when_nothing_differs(groups_of):
    """1,000 data sets; the margin is two standard errors of the simulation."""
    rng = np.random.default_rng(5)
    rejected_flip = rejected_mcnemar = 0
    for seed in range(1000):
        shared = np.repeat(rng.normal(size=60 // groups_of), groups_of)  # a group's rows fail together
        differences = np.sign(shared + 0.1 * rng.normal(size=60)) * (rng.random(60) < 0.6)
        clusters = np.arange(60) // groups_of
        rejected_flip += intervals.sign_flip_p(differences, clusters, flips=199, seed=seed) < 0.05
        rejected_mcnemar += intervals.mcnemar_p(int((differences > 0).sum()), int((differences < 0).sum())) < 0.05
    assert rejected_flip / 1000 <= 0.064
    if groups_of == 1:
        assert rejected_mcnemar / 1000 <= 0.064
    else:  # why compare.py leaves McNemar's test out for grouped rows
        assert rejected_mcnemar / 1000 > 0.1


def test_holm_follows_its_definition():
    rng = np.random.default_rng(6)
    for size in (1, 2, 5, 12):
        p = np.round(rng.random(size) ** 2, 2)  # rounded, so that some are equal
        order = sorted(range(size), key=lambda i: p[i])
        expected = [min(1.0, max((size - j) * p[order[j]] for j in range(order.index(i) + 1))) for i in range(size)]
        assert intervals.holm(p) == pytest.approx(expected)
    assert intervals.holm([]) == []


def test_smallest_detectable_difference_is_found_in_80_percent_of_repeats():
    rng = np.random.default_rng(7)
    n, spread = 300, 0.5
    half = 1.96 * spread / math.sqrt(n)
    size = intervals.smallest_detectable_difference(0.1 - half, 0.1 + half)
    repeats = rng.normal(size, spread, (2000, n))
    found = (stats.ttest_1samp(repeats, 0, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.03)
