"""The whole chain at two known links, noise against scipy, interference against a plain loop."""

import numpy as np
import pytest
import scipy.constants
from linklab.radio import channels as ch
from linklab.radio import link_budget as lb
from linklab.radio import phy


def test_noise_floor_agrees_with_scipy():
    width = np.linspace(1, 200, 1000)
    theirs = 10 * np.log10(scipy.constants.k * 290 * width * 1e6 * 1e3)
    assert np.abs(lb.noise_floor_dbm(width) - theirs).max() <= 1e-3
    assert lb.noise_floor_dbm(np.array([20, 80])) == pytest.approx([-100.965, -94.944], abs=1e-3)


# FCC, 5 km, 802.11ac, 80 MHz, 25 dBm, 25 dBi, noise figure 6 dB, busy .10. The published RSSI took 92.45 dB for the
# constant of free space; 20 lg(4 pi d f / c) has 92.4478, which is 2.2 thousandths of a dB (and .05 Mbit/s) less.
@pytest.mark.parametrize("number, rssi, throughput", [(155, -46.705, 547.65), (58, -65.944, 407.32)])
def test_chain_check_values(number, rssi, throughput):
    fcc, c = ch.DOMAINS.index("FCC"), ch.channel_index(5000 + 5 * number)
    eirp = ch.eirp_dbm(fcc, c, 25, 25)
    level = lb.rssi_dbm(eirp, 25, 5.0, ch.CENTRE_MHZ[c])
    assert level - (92.45 - 92.4478) == pytest.approx(rssi, abs=1e-3)
    steps = phy.goodput_steps(phy.goodput_mbps(0, 2, 5.0))
    found = phy.expected_throughput_mbps(level - lb.noise_floor_dbm(80, 6.0), 50 - eirp, 0.9, steps)
    assert found == pytest.approx(throughput, abs=0.06)


def interference_by_loop(level, interferers):
    """One link: (mW at B, idle share) for every channel of its level, sub-channel by sub-channel."""
    first = ch.FIRST_OF_LEVEL[level]
    n = int((level == ch.LEVEL).sum())
    power, idle = np.zeros(25), np.ones(25)
    spans = [*(range(a, b) for a, b in ((0, 8), (8, 20), (20, 25)))]
    for position in range(n):
        covered = set(np.flatnonzero(ch.COVERS[first + position]))
        for channel, at_a, at_b, duty in interferers:
            own = set(np.flatnonzero(ch.COVERS[channel]))
            if own & covered and at_a > -82:
                idle[position] *= 1 - duty
                continue
            for s in covered:
                span = next(r for r in spans if s in r)
                if s in own:
                    power[position] += duty * 10 ** (at_b / 10)
                elif any(t in own and t in span for t in (s - 1, s + 1)):
                    power[position] += duty * 10 ** (at_b / 10) * 10**-2.6
    return power, idle


def test_interference_agrees_with_a_plain_loop():
    rng = np.random.default_rng(3)
    n_links = 40
    level = rng.integers(0, 4, n_links)
    count = rng.integers(0, 30, n_links)
    link = np.repeat(np.arange(n_links), count)
    channel = rng.integers(0, 45, len(link))
    at_a, at_b, duty = rng.normal(-82, 8, len(link)), rng.normal(-85, 8, len(link)), rng.random(len(link))
    power, idle = lb.interference(link, level, channel, at_a, at_b, duty)
    for i in range(n_links):
        mine = link == i
        expected = interference_by_loop(
            level[i], list(zip(*(x[mine] for x in (channel, at_a, at_b, duty)), strict=True))
        )
        assert power[i] == pytest.approx(expected[0], rel=1e-9, abs=1e-30)
        assert idle[i] == pytest.approx(expected[1], rel=1e-9)


def test_a_neighbour_that_is_heard_costs_time_and_one_that_is_not_costs_sinr():
    c = ch.channel_index(5180)
    heard = lb.interference(
        np.array([0]), np.array([0]), np.array([c]), np.array([-70.0]), np.array([-70.0]), np.array([0.4])
    )
    deaf = lb.interference(
        np.array([0]), np.array([0]), np.array([c]), np.array([-90.0]), np.array([-70.0]), np.array([0.4])
    )
    assert heard[0][0, 0] == 0 and heard[1][0, 0] == pytest.approx(0.6)
    assert deaf[0][0, 0] == pytest.approx(0.4e-7) and deaf[1][0, 0] == 1
    assert heard[0][0, 1] == pytest.approx(0.4e-7 * 10**-2.6)  # beside its channel it cannot be deferred to


def test_ragged_positions_count_on_from_each_start():
    assert lb.ragged_positions(np.array([0, 5, 9]), np.array([2, 0, 3])).tolist() == [0, 1, 9, 10, 11]
    assert lb.ragged_positions(np.array([], int), np.array([], int)).tolist() == []


def test_power_units_round_trip():
    dbm = np.linspace(-110, 30, 1000)
    assert np.abs(lb.to_dbm(lb.to_mw(dbm)) - dbm).max() < 1e-9
