"""Channels and rules: the standard's table, and the limits of each domain in each band."""

import numpy as np
import pytest
from linklab.radio import channels as ch


def eirp(domain, number, power, gain):
    return float(ch.eirp_dbm(ch.DOMAINS.index(domain), ch.channel_index(5000 + 5 * number), power, gain))


def test_45_centres_and_no_two_widths_share_one():
    assert len(ch.CENTRE_MHZ) == 45
    assert len(set(ch.CENTRE_MHZ.tolist())) == 45
    assert ch.CENTRE_MHZ.min() == 5180 and ch.CENTRE_MHZ[:25].max() == 5825


def test_wide_channels_are_made_of_whole_20_mhz_channels():
    assert (ch.COVERS.sum(1) == ch.WIDTH_MHZ // 20).all()
    sub = ch.CENTRE_MHZ[:25][ch.COVERS[ch.channel_index(5690)]]  # channel 138
    assert sub.tolist() == [5660, 5680, 5700, 5720]


@pytest.mark.parametrize(
    "domain, counts", [("FCC", (25, 12, 6, 2)), ("ETSI", (11, 5, 2, 1)), ("ETSI_BFWA", (17, 8, 4, 1))]
)
def test_number_of_legal_channels(domain, counts):
    assert tuple(len(ch.legal_channels(domain, w)) for w in ch.WIDTHS_MHZ) == counts


def test_etsi_leaves_out_channels_that_reach_beyond_5725():
    legal = set(ch.CENTRE_MHZ[ch.LEGAL[ch.DOMAINS.index("ETSI")]].tolist())
    assert 5700 in legal
    assert not legal & {5720, 5710, 5690}  # 144, 142, 138


@pytest.mark.parametrize(
    "domain, number, power, gain, expected",
    [
        ("FCC", 155, 25, 25, 50.0),  # point-to-point: any gain
        ("FCC", 58, 25, 25, 30.0),
        ("FCC", 58, 22, 25, 30.0),  # 24 - 19 = 5 dBm conducted is the limit, not a further reduction of 22
        ("FCC", 36, 27, 23, 50.0),
        ("FCC", 36, 27, 30, 53.0),  # 30 - 7 = 23 dBm conducted
        ("FCC", 36, 22, 30, 52.0),
        ("FCC", 144, 27, 13, 30.0),  # straddles 5725: the stricter band rules
        ("ETSI", 100, 22, 13, 30.0),  # 17 + 10 lg 20 = 30.01: the 30 dBm cap
        ("ETSI_BFWA", 149, 27, 23, 36.0),
        ("ETSI_BFWA", 144, 27, 23, 30.0),
        ("ETSI_BFWA", 149, 22, 13, 35.0),  # the radio itself is the limit
    ],
)
def test_radiated_power(domain, number, power, gain, expected):
    assert eirp(domain, number, power, gain) == pytest.approx(expected, abs=0.011)


def test_psd_limits_bind_only_below_their_reference_bandwidth():
    fcc = ch.DOMAINS.index("FCC")
    c = ch.channel_index(5260)
    assert ch.CONDUCTED_LIMIT_DBM[fcc, c] == 24.0  # 11 + 10 lg 20 = 24.01


def test_dfs_and_cac_follow_the_band():
    def of(domain, number):
        d, c = ch.DOMAINS.index(domain), ch.channel_index(5000 + 5 * number)
        return bool(ch.IS_DFS[d, c]), float(ch.CAC_S[d, c])

    assert of("FCC", 36) == (False, 0) and of("FCC", 52) == (True, 60) and of("FCC", 165) == (False, 0)
    assert of("FCC", 50) == (True, 60)  # half of it lies in the DFS band
    assert of("ETSI", 100) == (True, 60) and of("ETSI", 120) == (True, 600)
    assert of("ETSI", 118) == (True, 600)  # 40 MHz, 5570-5610: the strictest rule of what it overlaps
    assert of("ETSI_BFWA", 149) == (True, 60)


def test_availability_counts_non_occupancy_and_channel_check():
    etsi, weather = ch.DOMAINS.index("ETSI"), ch.channel_index(5600)
    assert ch.availability(etsi, weather, 2.0) == pytest.approx(1 - 2 * 2400 / 86400)
    assert ch.availability(ch.DOMAINS.index("FCC"), ch.channel_index(5180), 2.0) == 1.0


def test_channel_index_finds_centres_and_refuses_others():
    assert (ch.channel_index(ch.CENTRE_MHZ) == np.arange(45)).all()
    with pytest.raises(ValueError, match="5181"):
        ch.channel_index([5180, 5181])
    with pytest.raises(ValueError, match="5900"):
        ch.channel_index([5900])


def test_every_rule_has_a_source_and_bands_of_a_domain_do_not_overlap():
    for domain in ch.DOMAINS:
        rules = sorted((r for r in ch.RULES if r.domain == domain), key=lambda r: r.low_mhz)
        assert all(r.source for r in rules)
        assert all(a.high_mhz <= b.low_mhz for a, b in zip(rules, rules[1:], strict=False))
