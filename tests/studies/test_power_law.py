"""linklab/studies/power_law.py: known laws are found, intervals have their coverage, no extrapolation too far."""

import math

import numpy as np
import pytest
from linklab.studies import power_law
from linklab.studies.power_law import Law
from scipy.optimize import curve_fit
from scipy.stats import binomtest

SIZES = [100, 200, 400, 800, 1600, 3200]


def simulate(rng, law, sizes=SIZES, seeds=3, rows=400, luck=0.01):
    """Errors (0 or 1) of every test row: rows differ in difficulty, the same for all sizes; seeds differ by chance."""
    clusters = np.arange(rows)
    difficulty = rng.uniform(size=rows)
    values = []
    for size in sizes:
        share = law.error(size) + rng.normal(0, luck, size=seeds)
        own = rng.uniform(size=(seeds, rows)) < 0.5
        mixed = np.where(own, rng.uniform(size=(seeds, rows)), difficulty)  # half a row's outcome is its difficulty
        values.append((mixed < share[:, None]).astype(float))
    return values, clusters


@pytest.mark.parametrize(
    ("height", "slope", "floor"), [(0.4, 0.5, 0.1), (0.3, 0.25, 0.0), (120.0, 0.7, 25.0), (0.5, 1.2, 0.3)]
)
def test_a_law_without_noise_is_found_again(height, slope, floor):
    truth = Law(height, slope, floor, power_law.centre_of(SIZES))
    found = power_law.fit(SIZES, truth.error(SIZES))
    assert found.height == pytest.approx(height, rel=2e-3)
    assert found.slope == pytest.approx(slope, rel=2e-3)
    assert found.floor == pytest.approx(floor, abs=2e-3 * height)
    known = power_law.fit(SIZES[:3], truth.error(SIZES[:3]), floor=floor)
    np.testing.assert_allclose(known.error(SIZES), truth.error(SIZES), rtol=1e-3)


def test_the_fast_fit_of_resamples_agrees_with_scipys_on_noisy_curves():
    rng = np.random.default_rng(3)
    truth = Law(0.3, 0.6, 0.15, power_law.centre_of(SIZES))
    curves = truth.error(SIZES) + rng.normal(0, 0.005, size=(20, len(SIZES)))
    for law, errors in zip(power_law.fit_many(np.array(SIZES), curves), curves, strict=True):
        at = np.array(SIZES) / law.centre
        found, _ = curve_fit(
            lambda x, a, b, c: c + a * x**-b, at, errors, p0=[0.2, 0.4, 0.1], bounds=(0, [9, 3, 1]), maxfev=9999
        )
        scipys = Law(*found, law.centre)
        loss, best = (float(((errors - each.error(SIZES)) ** 2).sum()) for each in (law, scipys))
        assert loss <= best + 0.2 * 0.005**2  # the best loss up to a fifth of one point's noise, from the grid
        np.testing.assert_allclose(law.error(SIZES), scipys.error(SIZES), atol=2e-3)


def covered(sims, resamples, seed=0):
    rng = np.random.default_rng(seed)
    truth = Law(0.25, 0.6, 0.2, power_law.centre_of(SIZES))
    goal = float(truth.error(1200))
    inside = {"curve": 0, "rows": 0}
    for sim in range(sims):
        values, clusters = simulate(rng, truth)
        curve = power_law.fit_curve(SIZES, values, clusters, resamples=resamples, seed=sim)
        low, high = curve.band([1200])
        inside["curve"] += bool(low[0] <= goal <= high[0])
        needed = power_law.rows_needed(curve, goal)
        inside["rows"] += needed.low <= 1200 <= needed.high
    return inside


def test_intervals_hold_the_truth_as_often_as_they_say():
    """An exact binomial test (SciPy) finds no coverage below 90 %; the next test shows that it could."""
    sims = 60
    for name, hits in covered(sims, 100).items():
        assert binomtest(hits, sims, 0.90, alternative="less").pvalue > 0.01, (name, hits)


def test_with_intervals_half_as_wide_the_coverage_test_would_fail(monkeypatch):
    monkeypatch.setattr(power_law, "LEVEL", 0.6)
    sims = 30
    assert any(binomtest(hits, sims, 0.90, alternative="less").pvalue < 1e-4 for hits in covered(sims, 100).values())


def exact(law, sizes=SIZES, seeds=2, spread=0.002):
    """Numbers whose mean follows a law: single rows vary, the mean hardly."""
    return [np.tile(law.error(size) * (1 + spread * np.linspace(-1, 1, 200)), (seeds, 1)) for size in sizes]


def test_rows_needed_are_given_within_reach_and_refused_beyond():
    law = Law(100.0, 0.5, 20.0, 400.0)
    curve = power_law.fit_curve(SIZES, exact(law), np.arange(200), resamples=100)
    for rows in (150, 1000, 10_000):
        needed = power_law.rows_needed(curve, float(law.error(rows)))
        assert not needed.refusal and 0.99 * needed.low <= needed.rows <= 1.01 * needed.high
        assert needed.rows == pytest.approx(rows, rel=0.1)
        assert power_law.format_rows_needed(needed).startswith(f"about {float(f'{needed.rows:.2g}'):,.0f} rows [")
    for goal, said in [
        (float(law.error(100_000)), "beyond 32,000 rows"),  # 31 times the largest size
        (19.0, "100% never"),  # below the floor
        (float(law.error(30)), "fewer than the smallest size, 100 rows"),
    ]:
        needed = power_law.rows_needed(curve, goal)
        assert said in needed.refusal and power_law.format_rows_needed(needed) == needed.refusal


def test_too_few_sizes_and_an_error_that_does_not_fall_are_refused():
    law, clusters = Law(0.3, 0.5, 0.1, 400.0), np.arange(200)
    short = SIZES[:3]
    assert "3 sizes, and at least 4 are needed" in power_law.fit_curve(short, exact(law, short), clusters)
    known = power_law.fit_curve(short, exact(law, short), clusters, floor=0.1)
    assert known.floor_known and known.law.slope == pytest.approx(0.5, rel=0.02)
    assert "2 sizes" in power_law.fit_curve(SIZES[:2], exact(law, SIZES[:2]), clusters, floor=0.1)
    rng = np.random.default_rng(0)
    flat, rows = simulate(rng, Law(0.0, 0.5, 0.5, 400.0))
    assert "has not fallen by more than chance" in power_law.fit_curve(SIZES, flat, rows)


def test_a_step_is_not_a_power_law_and_a_size_without_errors_does_not_outweigh_the_others():
    """A model that always gives the most frequent class until it has enough rows, and then is always right."""
    wrong = np.random.default_rng(0).uniform(size=100) < 0.62
    before, after = np.tile(wrong, (3, 1)).astype(float), np.zeros((3, 100))
    said = power_law.fit_curve(SIZES[:4], [before, before, before, after], np.arange(100), resamples=100)
    assert "the error falls in a step" in said and "standard errors away" in said
    law = Law(0.1, 1.2, 0.0, power_law.centre_of(SIZES))  # 1.2 % of 400 rows at the end: by chance none
    values, rows = simulate(np.random.default_rng(1), law)
    values[-1][:] = 0
    curve = power_law.fit_curve(SIZES, values, rows, resamples=100)
    np.testing.assert_allclose(curve.law.error(SIZES[:-1]), law.error(SIZES[:-1]), atol=0.05)


def test_resampled_seeds_have_the_spread_of_their_variance():
    """Plain resampling of k seeds gives (k - 1) / k of the unbiased variance; ours is corrected. No row noise here."""
    rng = np.random.default_rng(5)
    levels = rng.normal(0.3, 0.05, size=3)
    values = [np.repeat(levels[:, None], 50, axis=1)]
    drawn = power_law.resample_errors(values, np.arange(50), 20_000)[:, 0]
    assert drawn.var() == pytest.approx(levels.var(ddof=1) / 3, rel=0.05)
    assert drawn.mean() == pytest.approx(levels.mean(), abs=1e-3)


def test_a_law_says_where_an_error_is_reached():
    law = Law(0.4, 0.5, 0.1, 100.0)
    assert law.rows_for(0.3) == pytest.approx(400)
    assert law.error(400) == pytest.approx(0.3)
    assert law.rows_for(0.1) == math.inf
