"""Labels: the best channel by the true expected throughput, ties, the gap, and the effect of presets."""

import numpy as np
import pytest
from linklab.radio import channels as ch
from linklab.radio import labels
from linklab.radio import scenarios as sc


@pytest.fixture(scope="module")
def block():
    return labels.make_block(3, 0)


def test_the_label_is_the_argmax_and_beats_the_second_by_the_gap(block):
    at = 0
    for i, n in enumerate(block["count"]):
        truth = block["channel_throughput_mbps"][at : at + n]
        centres = block["available_channels_mhz"][at : at + n]
        first, second = np.sort(truth)[::-1][:2]
        assert centres[truth.argmax()] == block["recommended_channel_mhz"][i]
        assert first > 5 and (first - second) / first >= 0.02
        assert block["second_best_gap_pct"][i] == pytest.approx(100 * (first - second) / first, abs=0.0101)
        assert block["expected_throughput_mbps"][i] == np.rint(min(first, 1000))
        at += n
    assert at == len(block["channel_throughput_mbps"])


def test_acceptable_channels_are_those_within_5_percent(block):
    row = np.repeat(np.arange(len(block["count"])), block["count"])
    best = np.maximum.reduceat(block["channel_throughput_mbps"], np.cumsum(block["count"]) - block["count"])
    good = block["channel_throughput_mbps"] >= 0.95 * best[row]
    assert (block["available_channels_mhz"][good] == block["acceptable_channels_mhz"]).all()
    assert (np.bincount(row[good]) == block["acceptable_count"]).all()


def test_truth_agrees_with_the_visible_formula_on_true_values(block):
    """Throughput follows from the true SINR and busy share, and from visible columns otherwise."""
    from linklab.radio import phy

    row = np.repeat(np.arange(len(block["count"])), block["count"])
    domain = block["regulatory_domain"][row]
    channel = ch.channel_index(block["available_channels_mhz"])
    power, gain = block["tx_power_dbm"][row], block["antenna_gain_dbi"][row]
    head = power + gain - ch.eirp_dbm(domain, channel, power, gain)
    usable = ch.availability(domain, channel, block["radar_events_per_day"][row]) * (1 - block["true_busy_pct"] / 100)
    level = np.searchsorted(ch.WIDTHS_MHZ, block["channel_bandwidth_mhz"])
    goodput = phy.goodput_mbps(block["radio_standard"], level, block["link_distance_m"] / 1000)[:, row]
    again = phy.expected_throughput_mbps(block["sinr_db"], head, usable, phy.goodput_steps(goodput))
    assert np.abs(again - block["channel_throughput_mbps"]).max() < 1e-3


@pytest.mark.parametrize(
    "truth, dfs, winner",
    [
        ([5, 9, 9], [0, 1, 0], 2),  # equal: the one without DFS
        ([5, 9, 9], [0, 1, 1], 1),  # equal and both DFS: the lower frequency
        ([9, 9, 9], [0, 0, 0], 0),
        ([1, 2, 3], [0, 0, 1], 2),
    ],
)
def test_ties(truth, dfs, winner):
    truth, dfs = np.array(truth + truth, float), np.array(dfs + dfs, bool)
    found, gap = labels.best_candidates(truth, np.array([3, 3]), dfs)
    assert found.tolist() == [winner, winner + 3]
    second = sorted(truth[:3])[-2]
    assert gap.tolist() == pytest.approx([1 - second / truth.max()] * 2)


def test_presets_change_reports_and_never_the_truth():
    blocks = {name: labels.make_block(3, 1, name) for name in sc.PRESETS}
    for name in set(blocks["easy"]) - {"rssi_dbm", "noise_dbm", "busy_pct"}:
        assert (blocks["easy"][name] == blocks["hard"][name]).all(), name
    spread = {}
    for name, b in blocks.items():
        inner = (b["true_busy_pct"] > 20) & (b["true_busy_pct"] < 80)
        row = np.repeat(np.arange(len(b["count"])), b["count"])
        offset = b["rssi_dbm"] - (b["sinr_db"] + b["true_noise_dbm"])
        per_row = np.bincount(row, offset) / b["count"]
        spread[name] = (
            (b["noise_dbm"] - b["true_noise_dbm"]).std(),
            (b["busy_pct"] - b["true_busy_pct"])[inner].std(),
            per_row.std(),
        )
        assert (offset - per_row[row]).std() < 0.4  # one offset per row: only rounding is left within it
    for name, preset in sc.PRESETS.items():
        rounding = np.sqrt(1 / 12)
        expected = np.hypot(preset, rounding)
        assert spread[name] == pytest.approx(expected, rel=0.08), name


def test_min_gap_0_keeps_more_rows_and_a_wider_gap_fewer():
    rows = [len(labels.make_block(3, 0, min_gap=gap)["count"]) for gap in (0.0, 0.02, 0.2)]
    assert rows[0] > rows[1] > rows[2] > 0


def test_coordinates_lie_as_far_apart_as_the_distance_column_says(block):
    from linklab.radio.propagation import haversine_km

    km = haversine_km(*(np.round(block[c], 6) for c in ("lat_a", "lon_a", "lat_b", "lon_b")))
    assert np.abs(km * 1000 - block["link_distance_m"]).max() < 0.5


def test_links_of_a_site_share_the_columns_of_the_site(block):
    for name in ("regulatory_domain", "environment_type", "area_density", "lat_a", "lon_a", "interferer_count"):
        for site in np.unique(block["site_id"]):
            assert len(set(block[name][block["site_id"] == site])) == 1, name
    assert 1.1 < len(block["site_id"]) / len(np.unique(block["site_id"])) < 4


def test_about_38_percent_of_draws_are_kept():
    kept = np.mean([len(labels.make_block(11, b)["count"]) / sc.BLOCK_DRAWS for b in range(8)])
    assert kept == pytest.approx(0.38, abs=0.02)
