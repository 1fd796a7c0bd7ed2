"""Draw links at random: their sites, neighbours, settings, offered channels and extra losses.

Draws come in blocks of BLOCK_DRAWS. Block b of a seed has its own counter-based generator (Philox, key = (seed, b)),
so blocks can be drawn in any order, by any number of processes, and the kept rows of blocks 0, 1, 2, ... always are
the same sequence. Changing BLOCK_DRAWS, or the order of the draws below, changes every published data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from linklab.radio import propagation
from linklab.radio.arrays import Columns
from linklab.radio.channels import (
    CENTRE_MHZ,
    DOMAINS,
    FIRST_OF_LEVEL,
    IS_DFS,
    LEGAL,
    LEVEL,
    N_SUBCHANNELS,
    POSITION,
    WIDTHS_MHZ,
)

BLOCK_DRAWS = 4096  # fastest: the arrays of a block fit the cache
MIN_CANDIDATES = 3
MIN_THROUGHPUT_MBPS = 5.0
ACCEPTABLE_SHARE = 0.95

DENSITIES = ("low", "medium", "high")
OBSTRUCTIONS = ("none", "building", "trees", "terrain")
WEATHERS = ("clear", "rain", "fog", "snow")
DEFAULT_DOMAIN_MIX = {"FCC": 0.55, "ETSI": 0.25, "ETSI_BFWA": 0.20}


class Preset(NamedTuple):
    """Standard deviations of a radio's reports: noise in dB, busy in percent points, one RSSI offset per row in dB."""

    noise_db: float
    busy_pct: float
    rssi_db: float


PRESETS = {"easy": Preset(0.5, 2, 1), "standard": Preset(1, 3, 2), "hard": Preset(2, 5, 2)}

# --- distributions of sites, links and neighbours ----------------------------------------------------------------
URBAN_SHARE = 0.40
MAX_LINKS_PER_SITE = 6  # drawn; about 38 % of draws are kept, so a site ends with one to four rows
WIDTH_SHARES = np.array(  # by density: narrower where it is crowded; .2/.35/.4/.05 on average
    [[0.12, 0.28, 0.52, 0.08], [0.20, 0.35, 0.40, 0.05], [0.28, 0.42, 0.28, 0.02]]
)
DISTANCE_M = np.array([[150.0, 5_000.0], [500.0, 20_000.0]])  # log-uniform, urban and rural
GAINS_DBI = np.array([13, 16, 19, 23, 25, 27, 30])
LOWEST_GAIN_BEYOND_M = ((1_500, 2), (5_000, 3))  # (distance, index into GAINS_DBI)
TX_POWER_DBM = (22, 27)
RADAR_PER_DAY, RADAR_SHARES = np.array([0.0, 0.5, 2.0]), np.array([0.6, 0.2, 0.2])
NOISE_FIGURE_DB = (5.0, 8.0)
OBSTRUCTED_SHARE = np.array([[0.15, 0.30, 0.45], [0.10, 0.15, 0.25]])  # (environment, density)
OBSTRUCTION_SHARES = np.array([[0.6, 0.4, 0.0], [0.15, 0.5, 0.35]])  # building, trees, terrain by environment
OBSTRUCTED_NU = (-0.8, 1.2)
OPEN_CLEARANCE = (0.6, 1.0)  # of the first Fresnel radius: beyond .6 diffraction costs nothing
TREE_DEPTH_M_PER_NU = 10.0  # the deeper the path enters the crowns, the more trees it crosses: 0-20 m
POINTING_SPREAD_DEG = 0.8  # each antenna, one standard deviation
WEATHER_SHARES = np.array([0.62, 0.20, 0.08, 0.10])
RAIN_MM_H = (0.5, 8.0, 80.0)  # minimum, mean without the cap, maximum
CANDIDATE_SHARE = np.array([0.55, 0.80, 1.0, 1.0])  # share of the legal channels of a width that a radio offers

# Neighbours use every channel of the band, also indoor ones; those with DFS under FCC rules are used less.
INTERFERERS_MEAN = np.array([[10.0, 20.0, 36.0], [3.0, 6.0, 14.0]])  # (environment, density)
INTERFERER_WIDTH_SHARES = np.array([0.35, 0.25, 0.35, 0.05])
DFS_WEIGHT = 0.35
COSITED_SHARES = np.array([0.35, 0.20, 0.20, 0.15, 0.10])  # 0-4 radios on A's own mast
NEIGHBOUR_B_DBM, NEIGHBOUR_SPREAD_DB, PATH_SPREAD_DB = np.array([-84.0, -90.0]), 9.0, 8.0
COSITED_A_DBM, COSITED_B_DBM, COSITED_SPREAD_DB = -62.0, -80.0, 8.0
NEIGHBOUR_DUTY, COSITED_DUTY = (0.8, 3.5), (2.0, 3.0)  # parameters of the beta distribution

# Regions of the sites by domain, degrees: latitude from-to, longitude from-to.
REGIONS = np.array([[30.0, 47.0, -120.0, -76.0], [40.0, 60.0, -8.0, 26.0], [50.0, 57.0, -9.0, 13.0]])


def _interferer_channel_cdf() -> np.ndarray:
    weights = np.where(IS_DFS[0], DFS_WEIGHT, 1.0)
    for level, share in enumerate(INTERFERER_WIDTH_SHARES):
        of_level = level == LEVEL
        weights[of_level] *= share / weights[of_level].sum()
    return np.cumsum(weights)


_INTERFERER_CDF = _interferer_channel_cdf()
# (3 domains, 4 levels, 25 positions): which positions of a level hold a legal channel
_LEGAL_POSITIONS = np.zeros((len(DOMAINS), len(WIDTHS_MHZ), N_SUBCHANNELS), bool)
_LEGAL_POSITIONS[:, LEVEL, POSITION] = LEGAL
_RAIN_K, _RAIN_ALPHA = propagation.rain_coefficients(CENTRE_MHZ / 1000.0)


def block_generator(seed: int, block: int) -> np.random.Generator:
    """The generator of one block: Philox keyed by (seed, block), both 0 .. 2^64 - 1."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, block], dtype=np.uint64)))


def _pick(rng: np.random.Generator, shares: np.ndarray, n: int) -> np.ndarray:
    """n indices drawn with probabilities `shares` (k,) or (n, k)."""
    edges = np.cumsum(shares, axis=-1)[..., :-1]
    return (rng.random(n)[:, None] >= edges).sum(1)


def draw_sites(rng: np.random.Generator, mix: Mapping[str, float], n_draws: int) -> Columns:
    """Sites with one to MAX_LINKS_PER_SITE links each, together n_draws links: dict of (n_sites,) arrays."""
    links = rng.integers(1, MAX_LINKS_PER_SITE + 1, n_draws)
    ends = np.cumsum(links)
    n = int(np.searchsorted(ends, n_draws)) + 1
    links = links[:n].copy()
    links[-1] -= ends[n - 1] - n_draws
    domain = _pick(rng, np.array([mix.get(d, 0.0) for d in DOMAINS]), n)
    region = REGIONS[domain]
    return {
        "links": links,
        "domain": domain,
        "environment": (rng.random(n) >= URBAN_SHARE).astype(int),
        "density": rng.integers(0, len(DENSITIES), n),
        "lat": region[:, 0] + rng.random(n) * (region[:, 1] - region[:, 0]),
        "lon": region[:, 2] + rng.random(n) * (region[:, 3] - region[:, 2]),
    }


def draw_neighbours(rng: np.random.Generator, sites: Columns) -> Columns:
    """The radios that each site hears: flat arrays by site, only for end A (shared by all links of a site)."""
    n = len(sites["links"])
    around = rng.poisson(INTERFERERS_MEAN[sites["environment"], sites["density"]])
    count = around + _pick(rng, COSITED_SHARES, n)
    site = np.repeat(np.arange(n), count)
    cosited = np.arange(len(site)) - np.repeat(np.cumsum(count) - count, count) >= around[site]
    far = ~cosited
    mean_b_dbm = NEIGHBOUR_B_DBM[sites["environment"][site]]
    # P_A = P_B + N(0, 8) with P_B ~ N(mean, 9): P_A is drawn here, P_B given P_A for each link in `power_at_b`.
    spread_db = np.where(cosited, COSITED_SPREAD_DB, np.hypot(NEIGHBOUR_SPREAD_DB, PATH_SPREAD_DB))
    mean_a_dbm = np.where(cosited, COSITED_A_DBM, mean_b_dbm)
    duty = np.empty(len(site))
    duty[far] = rng.beta(*NEIGHBOUR_DUTY, int(far.sum()))
    duty[cosited] = rng.beta(*COSITED_DUTY, int(cosited.sum()))
    return {
        "count": count,
        "cosited": cosited,
        "channel": np.searchsorted(_INTERFERER_CDF, rng.random(len(site)) * _INTERFERER_CDF[-1], side="right"),
        "power_a_dbm": mean_a_dbm + spread_db * rng.standard_normal(len(site)),
        "mean_b_dbm": mean_b_dbm,
        "duty": duty,
    }


def power_at_b(rng: np.random.Generator, neighbours: Columns, of: np.ndarray) -> np.ndarray:
    """Power at B in dBm of the neighbours `of` (indices, one per link and neighbour), given their power at A."""
    weight = NEIGHBOUR_SPREAD_DB**2 / (NEIGHBOUR_SPREAD_DB**2 + PATH_SPREAD_DB**2)
    rest_db = np.sqrt(weight) * PATH_SPREAD_DB
    mean = neighbours["mean_b_dbm"]
    given_a = mean + weight * (neighbours["power_a_dbm"] - mean)
    mean_dbm = np.where(neighbours["cosited"], COSITED_B_DBM, given_a)
    spread_db = np.where(neighbours["cosited"], COSITED_SPREAD_DB, rest_db)
    return mean_dbm[of] + spread_db[of] * rng.standard_normal(len(of))


def draw_links(rng: np.random.Generator, sites: Columns) -> Columns:
    """Links of the sites that have at least three legal channels at their width: dict of (n_links,) arrays."""
    site = np.repeat(np.arange(len(sites["links"])), sites["links"])
    environment, density, domain = (sites[k][site] for k in ("environment", "density", "domain"))
    n = len(site)
    level = _pick(rng, WIDTH_SHARES[density], n)
    low, high = DISTANCE_M[environment].T
    distance_m = np.rint(low * (high / low) ** rng.random(n))
    lowest = np.zeros(n, int)
    for beyond_m, index in LOWEST_GAIN_BEYOND_M:
        lowest[distance_m > beyond_m] = index
    obstructed = rng.random(n) < OBSTRUCTED_SHARE[environment, density]
    kind = 1 + _pick(rng, OBSTRUCTION_SHARES[environment], n)
    place = rng.random(n)
    nu = OBSTRUCTED_NU[0] + place * (OBSTRUCTED_NU[1] - OBSTRUCTED_NU[0])
    open_clearance = OPEN_CLEARANCE[0] + place * (OPEN_CLEARANCE[1] - OPEN_CLEARANCE[0])
    weather = _pick(rng, WEATHER_SHARES, n)
    rain = np.minimum(RAIN_MM_H[0] + (RAIN_MM_H[1] - RAIN_MM_H[0]) * rng.standard_exponential(n), RAIN_MM_H[2])
    links = {
        "site": site,
        "domain": domain,
        "environment": environment,
        "density": density,
        "level": level,
        "standard": rng.integers(0, 2, n),
        "distance_m": distance_m,
        "bearing": rng.random(n) * 2 * np.pi,
        "gain_dbi": GAINS_DBI[lowest + (rng.random(n) * (len(GAINS_DBI) - lowest)).astype(int)],
        "tx_power_dbm": rng.integers(TX_POWER_DBM[0], TX_POWER_DBM[1] + 1, n),
        "radar_per_day": RADAR_PER_DAY[_pick(rng, RADAR_SHARES, n)],
        "noise_figure_db": NOISE_FIGURE_DB[0] + rng.random(n) * (NOISE_FIGURE_DB[1] - NOISE_FIGURE_DB[0]),
        "obstruction": np.where(obstructed, kind, 0),
        "clearance": np.where(obstructed, -nu / np.sqrt(2), open_clearance),
        "weather": weather,
        "rain_mm_h": np.where(weather == WEATHERS.index("rain"), np.rint(rain * 10) / 10, 0.0),
        "offset_deg": POINTING_SPREAD_DEG * rng.standard_normal((n, 2)),
        "offer": rng.random((n, N_SUBCHANNELS)),
    }
    enough = _LEGAL_POSITIONS[domain, level].sum(1) >= MIN_CANDIDATES
    return {name: values[enough] for name, values in links.items()}


def offered_channels(links: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of every link, flat by rising frequency: (link of each candidate, channel index)."""
    legal = _LEGAL_POSITIONS[links["domain"], links["level"]]
    chance = np.where(legal, links["offer"], 2.0)
    offered = chance < CANDIDATE_SHARE[links["level"]][:, None]
    few = np.flatnonzero(offered.sum(1) < MIN_CANDIDATES)
    nearest = np.argpartition(chance[few], MIN_CANDIDATES - 1, axis=1)[:, :MIN_CANDIDATES]
    offered[few[:, None], nearest] = True
    link, position = np.nonzero(offered)
    return link, FIRST_OF_LEVEL[links["level"]][link] + position


def extra_losses_db(links: Columns, link: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """Loss in dB of each candidate beyond free space and gas: obstacle, rain, pointing of both antennas."""
    pointing = propagation.pointing_loss_db(links["offset_deg"], links["gain_dbi"][:, None]).sum(1)
    loss_db = pointing[link]
    f_ghz = CENTRE_MHZ[channel] / 1000.0
    kind = links["obstruction"][link]
    at = np.flatnonzero(kind > 0)
    # Clearance is stated at 5.5 GHz; the Fresnel zone of a higher channel is thinner.
    nu = -np.sqrt(2) * links["clearance"][link[at]] * np.sqrt(f_ghz[at] / 5.5)
    depth_m = np.maximum(0.0, TREE_DEPTH_M_PER_NU * (nu - OBSTRUCTED_NU[0]))
    trees = kind[at] == OBSTRUCTIONS.index("trees")
    loss_db[at] += np.where(
        trees, propagation.vegetation_loss_db(depth_m, f_ghz[at]), propagation.knife_edge_loss_db(nu)
    )
    at = np.flatnonzero(links["rain_mm_h"][link] > 0)
    d_km, rain, c = links["distance_m"][link[at]] / 1000.0, links["rain_mm_h"][link[at]], channel[at]
    loss_db[at] += propagation.rain_loss_db(d_km, rain, f_ghz[at], coefficients=(_RAIN_K[c], _RAIN_ALPHA[c]))
    return loss_db
