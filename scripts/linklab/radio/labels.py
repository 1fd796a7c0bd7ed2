"""From drawn links to rows: the true throughput of every candidate, the best channel, the radio's reports.

A row is kept if its best channel has more than 5 Mbit/s and beats the second by the minimal gap.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from linklab.radio import link_budget, phy, propagation, scenarios
from linklab.radio.arrays import Columns
from linklab.radio.channels import CENTRE_MHZ, IS_DFS, POSITION, WIDTH_MHZ, WIDTHS_MHZ, availability, eirp_dbm


def _starts(count: np.ndarray) -> np.ndarray:
    """First flat position of every row of `count` elements: [2, 3] -> [0 2]."""
    return np.cumsum(count) - count


def interfere(rng: np.random.Generator, sites: Columns, links: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the neighbours and return (n_links, 25) interference at B in mW and idle share at A, and their number."""
    neighbours = scenarios.draw_neighbours(rng, sites)
    count = neighbours["count"][links["site"]]
    of = link_budget.ragged_positions(_starts(neighbours["count"])[links["site"]], count)
    power_b_dbm = scenarios.power_at_b(rng, neighbours, of)
    channel = neighbours["channel"][of]
    spread_db = 10 * np.log10(WIDTH_MHZ / 20.0)[channel]  # total power to power per 20 MHz
    power_mw, idle = link_budget.interference(
        np.repeat(np.arange(len(count)), count), links["level"], channel,
        neighbours["power_a_dbm"][of] - spread_db, power_b_dbm - spread_db, neighbours["duty"][of],
    )  # fmt: skip
    return power_mw, idle, count


def true_state(
    links: Columns, link: np.ndarray, channel: np.ndarray, power_mw: np.ndarray, idle: np.ndarray
) -> Columns:
    """True state of every candidate: dict of flat arrays rssi_dbm, noise_dbm, idle, head_db, throughput_mbps.

    `link` and `channel` (n_candidates,) are each candidate's link and channel index; throughput is rounded to .001.
    """
    domain, gain, tx_power = (links[k][link] for k in ("domain", "gain_dbi", "tx_power_dbm"))
    eirp = eirp_dbm(domain, channel, tx_power, gain)
    d_km = links["distance_m"] / 1000.0
    loss_db = scenarios.extra_losses_db(links, link, channel)
    rssi = link_budget.rssi_dbm(eirp, gain, d_km[link], CENTRE_MHZ[channel], loss_db)
    floor_mw = link_budget.to_mw(
        link_budget.noise_floor_dbm(np.array(WIDTHS_MHZ)[links["level"]], links["noise_figure_db"])
    )
    cell = (link, POSITION[channel])
    noise = link_budget.to_dbm(floor_mw[link] + power_mw[cell])
    head = tx_power + gain - eirp
    available = availability(domain, channel, links["radar_per_day"][link])
    steps = phy.goodput_steps(phy.goodput_mbps(links["standard"], links["level"], d_km))
    usable = idle[cell] * available
    throughput = phy.expected_throughput_mbps(rssi - noise, head, usable, steps[:, link])
    return {
        "rssi_dbm": rssi,
        "noise_dbm": noise,
        "idle": idle[cell],
        "head_db": head,
        "throughput_mbps": np.rint(throughput * 1000) / 1000,
    }


def best_candidates(
    throughput_mbps: np.ndarray, count: np.ndarray, is_dfs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Flat position of every row's best candidate, and the gap to its second as a share of the best.

    Candidates lie flat, `count` per row, by rising frequency. Equal throughput: no DFS first, then lower frequency.
    """
    start = _starts(count)
    best = np.maximum.reduceat(throughput_mbps, start)
    place = np.arange(len(throughput_mbps))
    equal = throughput_mbps == np.repeat(best, count)
    order = np.where(equal, place + is_dfs * len(place), 2 * len(place))
    winner = np.minimum.reduceat(order, start) % len(place)
    others = throughput_mbps.copy()
    others[winner] = -1.0
    second = np.maximum.reduceat(others, start)
    return winner, (best - second) / np.maximum(best, 1e-9)


def observe(rng: np.random.Generator, preset: scenarios.Preset, state: Columns, count: np.ndarray) -> Columns:
    """The radio's reports in whole dB and percent: RSSI, noise and busy of every candidate, (n_candidates,) ints.

    One RSSI offset per row (calibration), independent noise and busy errors for every candidate.
    """
    offset = preset.rssi_db * rng.standard_normal(len(count))
    rssi = state["rssi_dbm"] + np.repeat(offset, count)
    noise = state["noise_dbm"] + preset.noise_db * rng.standard_normal(len(rssi))
    busy = 100 * (1 - state["idle"]) + preset.busy_pct * rng.standard_normal(len(rssi))
    return {
        "rssi_dbm": np.clip(np.rint(rssi), -120, 0).astype(int),
        "noise_dbm": np.clip(np.rint(noise), -110, -20).astype(int),
        "busy_pct": np.clip(np.rint(busy), 0, 100).astype(int),
    }


def make_block(
    seed: int,
    block: int,
    preset: str = "standard",
    domain_mix: Mapping[str, float] | None = None,
    min_gap: float = 0.02,
) -> Columns:
    """Kept rows of one block: dict of arrays named as the columns of links.csv, and `count`, the candidates per row.

    Row columns are (n_rows,), candidate columns flat (count.sum(),). Text columns hold indices into the names in
    `scenarios` and `channels`. `preset` changes what is reported, never what is true.
    """
    rng = scenarios.block_generator(seed, block)
    sites = scenarios.draw_sites(rng, domain_mix or scenarios.DEFAULT_DOMAIN_MIX, scenarios.BLOCK_DRAWS)
    links = scenarios.draw_links(rng, sites)
    link, channel = scenarios.offered_channels(links)
    power_mw, idle, interferers = interfere(rng, sites, links)
    state = true_state(links, link, channel, power_mw, idle)

    count = np.bincount(link, minlength=len(interferers))
    is_dfs = IS_DFS[links["domain"][link], channel]
    winner, gap = best_candidates(state["throughput_mbps"], count, is_dfs)
    kept = (state["throughput_mbps"][winner] > scenarios.MIN_THROUGHPUT_MBPS) & (gap >= min_gap)
    links = {name: values[kept] for name, values in links.items()}
    kept_candidate = kept[link]
    start = _starts(count)[kept]
    state = {name: values[kept_candidate] for name, values in state.items()}
    count = count[kept]
    winner = winner[kept] - start + _starts(count)
    seen = observe(rng, scenarios.PRESETS[preset], state, count)
    row = np.repeat(np.arange(len(count)), count)
    truth = state["throughput_mbps"]
    acceptable = truth >= scenarios.ACCEPTABLE_SHARE * truth[winner][row]
    columns = _row_columns(block, sites, links, interferers[kept], state, winner, gap[kept])
    return columns | seen | {
        "count": count,
        "available_channels_mhz": CENTRE_MHZ[channel[kept_candidate]],
        "recommended_channel_mhz": CENTRE_MHZ[channel[kept_candidate][winner]],
        "true_noise_dbm": state["noise_dbm"],
        "true_busy_pct": 100 * (1 - state["idle"]),
        "sinr_db": state["rssi_dbm"] - state["noise_dbm"],
        "channel_throughput_mbps": truth,
        "acceptable_channels_mhz": CENTRE_MHZ[channel[kept_candidate]][acceptable],
        "acceptable_count": np.bincount(row[acceptable], minlength=len(count)),
    }  # fmt: skip


def _row_columns(
    block: int,
    sites: Columns,
    links: Columns,
    interferers: np.ndarray,
    state: Columns,
    winner: np.ndarray,
    gap: np.ndarray,
) -> Columns:
    site, level = links["site"], links["level"]
    d_km = links["distance_m"] / 1000.0
    lat_a, lon_a = np.round(sites["lat"][site], 6), np.round(sites["lon"][site], 6)
    lat_b, lon_b = propagation.destination(lat_a, lon_a, links["bearing"], d_km)
    rssi, noise, head = (state[k][winner] for k in ("rssi_dbm", "noise_dbm", "head_db"))
    goodput = phy.goodput_mbps(links["standard"], level, d_km)
    margin_db = rssi - (phy.SENSITIVITY_20_DBM[0] + 10 * np.log10(np.array(WIDTHS_MHZ)[level] / 20.0))
    outage = propagation.multipath_outage_pct(d_km, 5.5, margin_db)
    throughput = state["throughput_mbps"][winner]
    return {
        "site_id": block * scenarios.BLOCK_DRAWS + site,
        "regulatory_domain": links["domain"],
        "environment_type": links["environment"],
        "area_density": links["density"],
        "radio_standard": links["standard"],
        "channel_bandwidth_mhz": np.array(WIDTHS_MHZ)[level],
        "link_distance_m": links["distance_m"],
        "antenna_gain_dbi": links["gain_dbi"],
        "tx_power_dbm": links["tx_power_dbm"],
        "radar_events_per_day": links["radar_per_day"],
        "fresnel_clear_pct": np.rint(100 * links["clearance"]),
        "obstruction_type": links["obstruction"],
        "rain_mm_h": links["rain_mm_h"],
        "weather_condition": links["weather"],
        "expected_throughput_mbps": np.rint(np.minimum(throughput, phy.ETHERNET_MBPS)),
        "lat_a": lat_a,
        "lon_a": lon_a,
        "lat_b": lat_b,
        "lon_b": lon_b,
        "interferer_count": interferers,
        "second_best_gap_pct": np.floor(1e4 * gap + 1e-6) / 100,
        "mcs_index": phy.best_mcs(rssi - noise, head, goodput),
        "availability_pct": 100.0 - outage,
    }
