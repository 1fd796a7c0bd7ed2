"""Draws have the shares, ranges and conditions of the link model; blocks depend only on seed and number."""

import numpy as np
import pytest
from linklab.radio import channels as ch
from linklab.radio import scenarios as sc


@pytest.fixture(scope="module")
def drawn():
    """Sites, neighbours and links of 30 blocks, about 100,000 links."""
    parts = []
    for block in range(30):
        rng = sc.block_generator(5, block)
        sites = sc.draw_sites(rng, sc.DEFAULT_DOMAIN_MIX, sc.BLOCK_DRAWS)
        links = sc.draw_links(rng, sites)
        parts.append((sites, links, sc.offered_channels(links), sc.draw_neighbours(rng, sites)))
    return parts


def joined(drawn, part, name):
    return np.concatenate([each[part][name] for each in drawn])


def shares(codes, n):
    return np.bincount(codes, minlength=n) / len(codes)


def test_a_block_depends_on_seed_and_number_only():
    first, again = (sc.block_generator(1, 7).random(5).tolist() for _ in range(2))
    assert first == again
    assert sc.block_generator(1, 8).random(5).tolist() != first
    assert sc.block_generator(2, 7).random(5).tolist() != first
    assert sc.block_generator(2**64 - 1, 0).random() is not None


def test_sites_hold_one_to_six_links_and_fill_the_block(drawn):
    links = joined(drawn, 0, "links")
    assert links.min() == 1 and links.max() == sc.MAX_LINKS_PER_SITE
    assert all(each[0]["links"].sum() == sc.BLOCK_DRAWS for each in drawn)


def test_sites_follow_the_domain_mix(drawn):
    assert shares(joined(drawn, 0, "domain"), 3) == pytest.approx([0.55, 0.25, 0.20], abs=0.01)
    rng = sc.block_generator(5, 0)
    assert set(sc.draw_sites(rng, {"ETSI": 1.0}, 500)["domain"]) == {1}


def test_links_have_three_legal_channels_and_inherit_their_site(drawn):
    for sites, links, _, _ in drawn[:3]:
        assert (links["domain"] == sites["domain"][links["site"]]).all()
        counts = [[len(ch.legal_channels(d, w)) for w in ch.WIDTHS_MHZ] for d in ch.DOMAINS]
        assert np.array(counts)[links["domain"], links["level"]].min() >= 3
        assert 3 not in links["level"]  # no domain has three channels of 160 MHz


def test_shares_of_columns(drawn):
    # Width shares before links without three channels are left out: FCC keeps 20, 40 and 80 MHz.
    fcc = joined(drawn, 1, "domain") == 0
    level = joined(drawn, 1, "level")[fcc]
    assert shares(level, 3) == pytest.approx(np.array([0.20, 0.35, 0.40]) / 0.95, abs=0.01)
    assert shares(joined(drawn, 1, "standard"), 2) == pytest.approx([0.5, 0.5], abs=0.01)
    radar = joined(drawn, 1, "radar_per_day")
    assert [np.mean(radar == r) for r in (0, 0.5, 2)] == pytest.approx([0.6, 0.2, 0.2], abs=0.01)


def test_distance_is_log_uniform_within_the_range_of_its_environment(drawn):
    distance, rural = joined(drawn, 1, "distance_m"), joined(drawn, 1, "environment") == 1
    for here, low, high in ((~rural, 150, 5_000), (rural, 500, 20_000)):
        assert distance[here].min() >= low and distance[here].max() <= high
        middle = np.sqrt(low * high)
        assert np.mean(distance[here] < middle) == pytest.approx(0.5, abs=0.01)
    assert (distance == np.rint(distance)).all()


def test_long_links_have_strong_antennas(drawn):
    distance, gain = joined(drawn, 1, "distance_m"), joined(drawn, 1, "gain_dbi")
    assert gain[distance > 1_500].min() == 19
    assert gain[distance > 5_000].min() == 23
    assert set(gain[distance < 1_000]) == {13, 16, 19, 23, 25, 27, 30}
    power = joined(drawn, 1, "tx_power_dbm")
    assert power.min() == 22 and power.max() == 27


@pytest.mark.parametrize("environment, density, share", [(0, 0, 0.15), (0, 2, 0.45), (1, 1, 0.15), (1, 2, 0.25)])
def test_obstructions_are_as_frequent_as_the_model_says(drawn, environment, density, share):
    here = (joined(drawn, 1, "environment") == environment) & (joined(drawn, 1, "density") == density)
    blocked = joined(drawn, 1, "obstruction")[here] > 0
    assert blocked.mean() == pytest.approx(share, abs=0.02)
    clearance = joined(drawn, 1, "clearance")[here]
    assert clearance[~blocked].min() >= 0.6
    nu = -np.sqrt(2) * clearance[blocked]
    assert nu.min() >= -0.8 - 1e-9 and nu.max() <= 1.2 + 1e-9 and nu.mean() == pytest.approx(0.2, abs=0.05)


def test_rain_falls_only_in_rainy_weather(drawn):
    rain, weather = joined(drawn, 1, "rain_mm_h"), joined(drawn, 1, "weather")
    assert (rain[weather != 1] == 0).all()
    assert rain[weather == 1].min() >= 0.5 and rain.max() <= 80


def test_candidates_are_legal_rising_and_at_least_three(drawn):
    offered = {}
    for _, links, (link, channel), _ in drawn[:6]:
        assert ch.LEGAL[links["domain"][link], channel].all()
        assert (ch.LEVEL[channel] == links["level"][link]).all()
        assert np.bincount(link, minlength=len(links["site"])).min() >= 3
        assert (np.diff(ch.CENTRE_MHZ[channel])[np.diff(link) == 0] > 0).all()
        for level in range(3):
            fcc = (links["domain"][link] == 0) & (links["level"][link] == level)
            n = ((links["domain"] == 0) & (links["level"] == level)).sum()
            offered.setdefault(level, []).append(fcc.sum() / n)
    legal = [len(ch.legal_channels("FCC", w)) for w in (20, 40, 80)]
    assert [np.mean(offered[level]) / legal[level] for level in range(3)] == pytest.approx([0.55, 0.8, 1.0], abs=0.01)


def test_neighbours_are_as_many_and_as_loud_as_the_model_says(drawn):
    environment, density = joined(drawn, 0, "environment"), joined(drawn, 0, "density")
    count = joined(drawn, 3, "count")
    for e, row in enumerate(((10, 20, 36), (3, 6, 14))):
        for d, mean in enumerate(row):
            here = (environment == e) & (density == d)
            assert count[here].mean() == pytest.approx(mean + 1.4, rel=0.03)  # and 1.4 on the mast
    cosited, power, duty = (joined(drawn, 3, name) for name in ("cosited", "power_a_dbm", "duty"))
    assert power[cosited].mean() == pytest.approx(-62, abs=0.3) and power[cosited].std() == pytest.approx(8, abs=0.2)
    assert duty[cosited].mean() == pytest.approx(0.4, abs=0.01)
    assert duty[~cosited].mean() == pytest.approx(0.8 / 4.3, abs=0.01)
    level = ch.LEVEL[joined(drawn, 3, "channel")]
    assert shares(level, 4) == pytest.approx([0.35, 0.25, 0.35, 0.05], abs=0.01)


def test_power_at_b_has_the_model_s_spread_and_its_tie_to_what_a_hears(drawn):
    rng = sc.block_generator(9, 0)
    neighbours = drawn[0][3]
    of = np.arange(len(neighbours["duty"]))
    pairs = [sc.power_at_b(rng, neighbours, of) for _ in range(5)]
    far_urban = ~neighbours["cosited"] & (neighbours["mean_b_dbm"] == -84)
    at_b = np.concatenate([p[far_urban] for p in pairs])
    at_a = np.tile(neighbours["power_a_dbm"][far_urban], len(pairs))
    assert at_b.mean() == pytest.approx(-84, abs=0.5) and at_b.std() == pytest.approx(9, abs=0.3)
    assert (at_a - at_b).std() == pytest.approx(8, abs=0.3)
    assert np.corrcoef(at_b, at_a - at_b)[0, 1] == pytest.approx(0, abs=0.05)


def test_every_link_of_a_trees_obstruction_loses_what_weissberger_says():
    links = {
        "offset_deg": np.zeros((2, 2)), "gain_dbi": np.array([25, 25]), "obstruction": np.array([2, 1]),
        "clearance": np.array([0.0, 0.0]), "rain_mm_h": np.array([0.0, 0.0]), "distance_m": np.array([1e3, 1e3]),
    }  # fmt: skip
    c = ch.channel_index(5500)
    loss = sc.extra_losses_db(links, np.array([0, 1]), np.array([c, c]))
    assert loss == pytest.approx([0.45 * 5.5**0.284 * 8, 6.0329], abs=1e-3)
