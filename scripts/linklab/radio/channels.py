"""5 GHz channels and the rules for outdoor fixed links: the allowed channels and their power limits.

Channel numbers, the rule table and every look-up array by channel are only here. Other modules refer to a
channel by its *index* 0..44, ordered by width, then by centre frequency.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from linklab.radio.arrays import Index, Numbers

WIDTHS_MHZ = (20, 40, 80, 160)
DOMAINS = ("FCC", "ETSI", "ETSI_BFWA")

# IEEE 802.11 operating classes in 5 GHz; the same numbers as ns-3's wifi-phy-operating-channel table.
CHANNEL_NUMBERS = {
    20: (*range(36, 65, 4), *range(100, 145, 4), *range(149, 166, 4)),
    40: (38, 46, 54, 62, 102, 110, 118, 126, 134, 142, 151, 159),
    80: (42, 58, 106, 122, 138, 155),
    160: (50, 114),
}


class Rule(NamedTuple):
    """The limits of a domain in one band. Powers in dBm; a limit that the rule does not set is infinite.

    The conducted limit is min(conducted_dbm, psd_dbm_mhz + 10 lg B), less one dB for every dB of antenna
    gain above free_gain_dbi. The EIRP limit is min(eirp_dbm, eirp_psd_dbm_mhz + 10 lg B).
    """

    domain: str
    low_mhz: float
    high_mhz: float
    conducted_dbm: float
    psd_dbm_mhz: float
    free_gain_dbi: float
    eirp_dbm: float
    eirp_psd_dbm_mhz: float
    dfs: bool
    cac_s: float
    source: str


NO_LIMIT = np.inf
_A1 = "47 CFR 15.407(a)(1)(iii), fixed point-to-point"
_A2 = "47 CFR 15.407(a)(2): lesser of 250 mW and 11 dBm + 10 lg B, reduced above 6 dBi; DFS 15.407(h)"
_A3 = "47 CFR 15.407(a)(3): 1 W, 30 dBm/500 kHz, point-to-point at any gain"
_ECC4 = "ECC/DEC/(04)08: 1 W EIRP, 50 mW/MHz; CAC of EN 301 893 table D.1"
_ECC6 = "ECC/REC/(06)04: 4 W EIRP, 200 mW/MHz; DFS as EN 302 502"

# 5150-5350 MHz is indoor only for ETSI, 5850-5895 MHz indoor only for the FCC: neither is listed.
RULES = (
    #     domain     low   high  cond  psd        free gain  eirp     eirp psd  DFS    CAC
    Rule("FCC", 5150, 5250, 30.0, 17.0, 23.0, 53.0, NO_LIMIT, False, 0, _A1),
    Rule("FCC", 5250, 5350, 24.0, 11.0, 6.0, 30.0, NO_LIMIT, True, 60, _A2),
    Rule("FCC", 5470, 5725, 24.0, 11.0, 6.0, 30.0, NO_LIMIT, True, 60, _A2),
    Rule("FCC", 5725, 5850, 30.0, 33.0, NO_LIMIT, NO_LIMIT, NO_LIMIT, False, 0, _A3),
    Rule("ETSI", 5470, 5600, NO_LIMIT, NO_LIMIT, NO_LIMIT, 30.0, 17.0, True, 60, _ECC4),
    Rule("ETSI", 5600, 5650, NO_LIMIT, NO_LIMIT, NO_LIMIT, 30.0, 17.0, True, 600, _ECC4),
    Rule("ETSI", 5650, 5725, NO_LIMIT, NO_LIMIT, NO_LIMIT, 30.0, 17.0, True, 60, _ECC4),
    Rule("ETSI_BFWA", 5470, 5600, NO_LIMIT, NO_LIMIT, NO_LIMIT, 30.0, 17.0, True, 60, _ECC4),
    Rule("ETSI_BFWA", 5600, 5650, NO_LIMIT, NO_LIMIT, NO_LIMIT, 30.0, 17.0, True, 600, _ECC4),
    Rule("ETSI_BFWA", 5650, 5725, NO_LIMIT, NO_LIMIT, NO_LIMIT, 30.0, 17.0, True, 60, _ECC4),
    Rule("ETSI_BFWA", 5725, 5875, NO_LIMIT, NO_LIMIT, NO_LIMIT, 36.0, 23.0, True, 60, _ECC6),
)

NON_OCCUPANCY_S = 1800.0  # EN 301 893 table D.1; 47 CFR 15.407(h)(2)(iv)

# --- look-up arrays indexed by channel (45,) -------------------------------------------------------------------
WIDTH_MHZ = np.array([w for w in WIDTHS_MHZ for _ in CHANNEL_NUMBERS[w]])
CENTRE_MHZ = np.array([5000 + 5 * n for w in WIDTHS_MHZ for n in CHANNEL_NUMBERS[w]])
LEVEL = np.searchsorted(WIDTHS_MHZ, WIDTH_MHZ)  # 0..3, the index of the width
FIRST_OF_LEVEL = np.searchsorted(LEVEL, np.arange(4))  # index of the first channel of each width
POSITION = np.arange(len(LEVEL)) - FIRST_OF_LEVEL[LEVEL]  # index among the channels of its own width
N_SUBCHANNELS = len(CHANNEL_NUMBERS[20])
_SUB_CENTRE = CENTRE_MHZ[:N_SUBCHANNELS]
COVERS = np.abs(CENTRE_MHZ[:, None] - _SUB_CENTRE) < WIDTH_MHZ[:, None] / 2  # (45, 25): sub-channels of a channel


def channel_index(centres_mhz: ArrayLike) -> np.ndarray:
    """Channel indices of centre frequencies in MHz; raises ValueError for one that is not a channel."""
    centres = np.asarray(centres_mhz)
    order = np.argsort(CENTRE_MHZ)
    at = order[np.minimum(np.searchsorted(CENTRE_MHZ, centres, sorter=order), len(order) - 1)]
    if np.any(CENTRE_MHZ[at] != centres):
        raise ValueError(f"not a 5 GHz channel centre: {centres[CENTRE_MHZ[at] != centres].flat[0]}")
    return at


def _rules_over(domain: str, index: int) -> list[Rule] | None:
    """Rules of every band that the channel overlaps, or None if the bands do not cover the whole channel."""
    low, high = CENTRE_MHZ[index] - WIDTH_MHZ[index] / 2, CENTRE_MHZ[index] + WIDTH_MHZ[index] / 2
    rules = [r for r in RULES if r.domain == domain and r.low_mhz < high and low < r.high_mhz]
    covered = sum(min(high, r.high_mhz) - max(low, r.low_mhz) for r in rules)
    return rules if covered >= high - low else None


def _tables() -> tuple[np.ndarray, ...]:
    shape = (len(DOMAINS), len(CENTRE_MHZ))
    legal, dfs, cac = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape)
    limits = np.full((3, *shape), np.inf)  # conducted dBm, free gain dBi, EIRP dBm
    for d, domain in enumerate(DOMAINS):
        for c in range(shape[1]):
            rules = _rules_over(domain, c)
            if rules is None:
                continue
            spread_db = 10 * np.log10(WIDTH_MHZ[c])
            legal[d, c] = True
            dfs[d, c] = any(r.dfs for r in rules)
            cac[d, c] = max(r.cac_s for r in rules)
            limits[0, d, c] = min(min(r.conducted_dbm, r.psd_dbm_mhz + spread_db) for r in rules)
            limits[1, d, c] = min(r.free_gain_dbi for r in rules)
            limits[2, d, c] = min(min(r.eirp_dbm, r.eirp_psd_dbm_mhz + spread_db) for r in rules)
    return legal, dfs, cac, *limits


# (3 domains, 45 channels): the strictest rule of every band a channel overlaps.
LEGAL, IS_DFS, CAC_S, CONDUCTED_LIMIT_DBM, FREE_GAIN_DBI, EIRP_LIMIT_DBM = _tables()


@cache
def legal_channels(domain: str, width_mhz: int) -> np.ndarray:
    """Indices of the channels of one width that a domain allows outdoors, by rising frequency."""
    return np.flatnonzero(LEGAL[DOMAINS.index(domain)] & (width_mhz == WIDTH_MHZ))


def eirp_dbm(domain: Index, channel: Index, tx_power_dbm: Numbers, antenna_gain_dbi: Numbers) -> np.ndarray:
    """Highest radiated power in dBm of a radio with `tx_power_dbm` and `antenna_gain_dbi` on a channel.

    `domain` (index into DOMAINS) and `channel` (index) broadcast with the powers. The rules lower the *limit* of
    the conducted power by the gain beyond the free gain; a radio that is weaker than the lowered limit need not
    back off further (47 CFR 15.407(a): "the maximum conducted output power ... shall be reduced").

    FCC, channel 58, 25 dBm, 25 dBi -> 30.0; channel 155 -> 50.0
    """
    excess_db = np.maximum(0.0, antenna_gain_dbi - FREE_GAIN_DBI[domain, channel])
    conducted = np.minimum(tx_power_dbm, CONDUCTED_LIMIT_DBM[domain, channel] - excess_db)
    return np.minimum(conducted + antenna_gain_dbi, EIRP_LIMIT_DBM[domain, channel])


def availability(domain: Index, channel: Index, radar_events_per_day: Numbers) -> np.ndarray:
    """Share of the day (0..1) a channel may be used: each radar event costs the non-occupancy period and a new CAC."""
    lost = radar_events_per_day * (NON_OCCUPANCY_S + CAC_S[domain, channel]) / 86400.0
    return np.where(IS_DFS[domain, channel], 1.0 - lost, 1.0)
