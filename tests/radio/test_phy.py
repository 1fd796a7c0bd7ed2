"""Rates against the tables of 802.11ac and 802.11ax, and the expected throughput against scipy."""

import numpy as np
import pytest
import scipy.stats
from linklab.radio import phy

# One stream, guard interval .8 us, at 20/40/80/160 MHz: the tables of IEEE 802.11ax-2021 (HE) and 802.11-2020 (VHT).
HE = """8.6 17.2 36.0 72.1 | 17.2 34.4 72.1 144.1 | 25.8 51.6 108.1 216.2 | 34.4 68.8 144.1 288.2
 | 51.6 103.2 216.2 432.4 | 68.8 137.6 288.2 576.5 | 77.4 154.9 324.3 648.5 | 86.0 172.1 360.3 720.6
 | 103.2 206.5 432.4 864.7 | 114.7 229.4 480.4 960.8 | 129.0 258.1 540.4 1080.9 | 143.4 286.8 600.5 1201.0"""
VHT = """6.5 13.5 29.2 58.5 | 13 27 58.5 117 | 19.5 40.5 87.8 175.5 | 26 54 117 234 | 39 81 175.5 351
 | 52 108 234 468 | 58.5 121.5 263.2 526.5 | 65 135 292.5 585 | 78 162 351 702 | 0 180 390 780
 | 0 0 0 0 | 0 0 0 0"""


def table(text):
    return np.array([[float(x) for x in row.split()] for row in text.split("|")])


@pytest.mark.parametrize("standard, text", [("ax", HE), ("ac", VHT)])
def test_one_stream_rates_are_those_of_the_standard(standard, text):
    ours = [[phy.phy_rate_mbps(standard, w, m, streams=1) for w in (20, 40, 80, 160)] for m in range(12)]
    # The printed tables round halves either way (29.25 -> 29.3 or 29.2): allow the last digit.
    assert np.abs(np.array(ours) - table(text)).max() < 0.051


@pytest.mark.parametrize(
    "standard, width, mcs, streams, rate",
    [("ax", 160, 11, 2, 2402.0), ("ac", 80, 9, 2, 780.0), ("ax", 20, 0, 1, 8.6), ("ac", 20, 9, 2, 0.0)],
)
def test_rate_check_values(standard, width, mcs, streams, rate):
    assert phy.phy_rate_mbps(standard, width, mcs, streams) == rate


def test_normal_cdf_agrees_with_scipy():
    x = np.linspace(-12, 12, 20_001)
    assert np.abs(phy.normal_cdf(x) - scipy.stats.norm.cdf(x)).max() < 1e-7


def test_efficiency_is_what_real_radios_report():
    for standard, level, mcs in ((0, 2, 9), (1, 2, 11), (1, 1, 9)):
        share = phy.goodput_mbps(standard, level, 1.0)[mcs] / phy.RATES_MBPS[standard, level, mcs]
        assert 0.7 < share < 0.97
    assert phy.goodput_mbps(0, 2, 20.0)[9] < phy.goodput_mbps(0, 2, 0.2)[9]  # flight time costs


def reference_throughput(sinr, head, usable, standard, width, km):
    """The formula of the link model, written out with scipy, one channel at a time."""
    total = below = 0.0
    for m in range(12):
        rate = phy.phy_rate_mbps(standard, width, m)
        n = {"ac": 64, "ax": 256}[standard]
        t = min(5484.0, n * 1538 * 8 / rate) if rate else 1.0
        g = rate * t * (1500 / 1538) / (t + 43 + 67.5 + 48 + 16 + 44 + 2 * km / 0.29979)
        loss = max(0.0, phy.BACK_OFF_DB[m] - head)
        snr = -10 * np.log10(10 ** (-(sinr - loss) / 10) + 10**-3.6)
        total += max(g - below, 0) * scipy.stats.norm.cdf((snr - phy.REQUIRED_SNR_DB[m]) / 2)
        below = g
    return usable * total


def test_expected_throughput_agrees_with_the_formula_written_out():
    rng = np.random.default_rng(2)
    n = 1000
    sinr, head, usable, km = rng.uniform(-10, 60, n), rng.uniform(0, 10, n), rng.random(n), rng.uniform(0.1, 20, n)
    standard, level = rng.integers(0, 2, n), rng.integers(0, 4, n)
    steps = phy.goodput_steps(phy.goodput_mbps(standard, level, km))
    ours = phy.expected_throughput_mbps(sinr, head, usable, steps)
    theirs = [
        reference_throughput(s, h, u, phy.STANDARDS[a], (20, 40, 80, 160)[b], k)
        for s, h, u, a, b, k in zip(sinr, head, usable, standard, level, km, strict=True)
    ]
    assert np.abs(ours - theirs).max() < 1e-3


def test_throughput_grows_with_sinr_and_never_exceeds_the_top_rate():
    steps = phy.goodput_steps(phy.goodput_mbps(1, 3, 1.0))
    curve = phy.expected_throughput_mbps(np.linspace(-20, 80, 500), 20.0, 1.0, steps[:, None])
    assert (np.diff(curve) >= -1e-6).all()
    assert curve[0] < 1 and curve[-1] < 2402


@pytest.mark.parametrize(
    "sinr, head, standard, level, expected",
    [(-5, 9, 1, 2, 0), (12.2, 9, 1, 2, 3), (60, 9, 1, 2, 11), (60, 9, 0, 2, 9), (60, 9, 0, 0, 8), (33, 0, 1, 2, 8)],
)
def test_best_mcs(sinr, head, standard, level, expected):
    goodput = phy.goodput_mbps(np.array([standard]), np.array([level]), np.array([1.0]))
    assert phy.best_mcs(np.array([sinr]), np.array([head]), goodput).tolist() == [expected]
