"""802.11ac and 802.11ax rates, MAC efficiency and the expected throughput of a link at a given SINR."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from linklab.radio.arrays import Index, Numbers

STANDARDS = ("ac", "ax")
N_STREAMS = 2
N_MCS = 12

# Bits x code rate per subcarrier of MCS 0..11, IEEE 802.11ax-2021 table 27-62 ff. (VHT shares MCS 0..9).
_BITS = np.array([0.5, 1, 1.5, 2, 3, 4, 4.5, 5, 6, 20 / 3, 7.5, 25 / 3])
_DATA_SUBCARRIERS = {"ac": (52, 108, 234, 468), "ax": (234, 468, 980, 1960)}  # at 20, 40, 80, 160 MHz
_SYMBOL_US = {"ac": 3.2 + 0.8, "ax": 12.8 + 0.8}  # with the .8 us guard interval
_AGGREGATED_MPDUS = {"ac": 64, "ax": 256}

# Per MCS 0..11: receiver sensitivity in 20 MHz, the required SNR, and the back-off of the amplifier.
SENSITIVITY_20_DBM = np.array([-82, -79, -77, -74, -70, -66, -65, -64, -59, -57, -54, -52], float)
REQUIRED_SNR_DB = np.array([4, 7, 9, 12, 16, 20, 21, 22, 27, 29, 32, 34], float)
BACK_OFF_DB = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 6, 6], float)
EVM_CEILING_DB = 36.0  # transmitter and receiver distortion: no SINR looks better than this
SNR_SPREAD_DB = 2.0  # rate adaptation does not switch at one exact SNR
_LINKS_PER_PASS = 8192  # their arrays fit the cache, which halves the time of the sum over MCS
_PER_DB = np.log(10) / 10  # exp(this x dB) is 10^(dB / 10) at a fifth of the time
ETHERNET_MBPS = 1000.0  # a report cannot exceed the radio's wired port

_MAX_PPDU_US = 5484.0  # aPPDUMaxTime, IEEE 802.11-2020 table 19-25
_FRAME_BYTES, _PAYLOAD_BYTES = 1538, 1500  # an MPDU with its headers and delimiter, and the Ethernet payload in it
# DIFS + mean back-off + preamble + SIFS + block acknowledgement, us; the flight time is added per link.
_OVERHEAD_US = 43.0 + 67.5 + 48.0 + 16.0 + 44.0


def phy_rate_mbps(standard: str, width_mhz: int, mcs: int, streams: int = N_STREAMS) -> float:
    """Data rate in Mbit/s rounded to .1 as in the tables of 802.11; 0 if the MCS does not exist.

    ax, 160, MCS 11, 2 streams -> 2402.0; ac, 80, 9, 2 -> 780.0; ac, 20, 9 -> 0 (no integer number of bits per symbol)
    """
    if standard == "ac" and (mcs > 9 or (mcs == 9 and width_mhz == 20 and streams < 3)):
        return 0.0
    subcarriers = _DATA_SUBCARRIERS[standard][(20, 40, 80, 160).index(width_mhz)]
    return round(float(subcarriers * _BITS[mcs] * streams / _SYMBOL_US[standard]), 1)


# (2 standards, 4 widths, 12 MCS), Mbit/s, 2 streams
RATES_MBPS = np.array(
    [[[phy_rate_mbps(s, w, m) for m in range(N_MCS)] for w in (20, 40, 80, 160)] for s in STANDARDS],
)
_MPDUS = np.array([_AGGREGATED_MPDUS[s] for s in STANDARDS], float)


def goodput_mbps(standard: Index, level: Index, distance_km: Numbers) -> np.ndarray:
    """Payload rate in Mbit/s of every MCS on an idle channel, shape (12, *inputs); 0 if the MCS does not exist.

    `standard` (0 ac, 1 ax), `level` (0..3 for 20..160 MHz), `distance_km` broadcast. One frame burst fills
    t = min(5484 us, n 1538 8 / R), and efficiency = t 1500/1538 / (t + overhead + 2 d / c).
    """
    standard, level, distance_km = np.broadcast_arrays(standard, level, distance_km)
    rate = np.moveaxis(RATES_MBPS[standard, level], -1, 0)
    bits = _MPDUS[standard] * _FRAME_BYTES * 8
    burst_us = np.minimum(_MAX_PPDU_US, bits / np.where(rate > 0, rate, 1.0))
    efficiency = burst_us * (_PAYLOAD_BYTES / _FRAME_BYTES) / (burst_us + _OVERHEAD_US + 2 * distance_km / 0.29979)
    return rate * efficiency


def goodput_steps(goodput: np.ndarray) -> np.ndarray:
    """Gain of each MCS over the one below it, max(g_m - g_(m-1), 0), shape as `goodput` (12, ...)."""
    return np.maximum(np.diff(goodput, axis=0, prepend=0.0), 0.0)


def normal_cdf(x: Numbers) -> np.ndarray:
    """Standard normal distribution function, absolute error below 1e-7 (Abramowitz & Stegun 7.1.26)."""
    x = np.asarray(x, float)
    t = np.abs(x, out=np.empty_like(x))  # in place: generation spends most of its time here
    t *= 0.3275911 * np.sqrt(0.5)
    t += 1.0
    np.divide(1.0, t, out=t)
    tail = t * 1.061405429
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += factor
        tail *= t
    tail *= 0.5
    bell = np.multiply(x, -0.5, out=t)
    bell *= x
    tail *= np.exp(bell, out=bell)
    return 0.5 + np.copysign(0.5 - tail, x)


def effective_snrs_db(sinr_db: Numbers, head_db: Numbers) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (back-off, SNR in dB at the demodulator) for every distinct back-off.

    The SNR is the SINR less the back-off beyond the head room, limited by the EVM ceiling. `head_db` is how far the
    rules already hold the transmitter below its own maximum. Powers are computed once: they take most of the time.
    """
    noise, room, ceiling = (np.exp(_PER_DB * -np.asarray(db)) for db in (sinr_db, head_db, EVM_CEILING_DB))
    for back_off_db in np.unique(BACK_OFF_DB):
        loss = np.maximum(1.0, np.exp(_PER_DB * back_off_db) * room)
        yield back_off_db, -10 * np.log10(noise * loss + ceiling)


def expected_throughput_mbps(sinr_db: Numbers, head_db: Numbers, usable: Numbers, steps: np.ndarray) -> np.ndarray:
    """Expected payload throughput in Mbit/s, smooth in the SINR: usable x sum_m step_m Phi((snr_m - required_m) / 2).

    `usable` is the share of time the channel is both idle and available (0..1); `steps` (12, ...) comes from
    `goodput_steps` and broadcasts against the other arrays after its first axis.
    """
    shape = np.broadcast_shapes(np.shape(sinr_db), np.shape(head_db), np.shape(usable), steps.shape[1:])
    if len(shape) == 1 and shape[0] > _LINKS_PER_PASS:
        arrays = [np.broadcast_to(a, shape) for a in (sinr_db, head_db, usable)]
        arrays.append(np.broadcast_to(steps, (N_MCS, *shape)))
        parts = [tuple(a[..., i : i + _LINKS_PER_PASS] for a in arrays) for i in range(0, shape[0], _LINKS_PER_PASS)]
        return np.concatenate([expected_throughput_mbps(*part) for part in parts])
    total = np.zeros(shape)
    for back_off_db, snr_db in effective_snrs_db(sinr_db, head_db):
        for m in np.flatnonzero(back_off_db == BACK_OFF_DB):
            total += steps[m] * normal_cdf((snr_db - REQUIRED_SNR_DB[m]) / SNR_SPREAD_DB)
    return total * usable


def best_mcs(sinr_db: Numbers, head_db: Numbers, goodput: np.ndarray) -> np.ndarray:
    """Highest MCS with its required SNR met, 0 if none is. An MCS exists where `goodput` (12, ...) is above 0."""
    best = np.zeros(np.shape(sinr_db), int)
    for back_off_db, snr_db in effective_snrs_db(sinr_db, head_db):
        for m in np.flatnonzero(back_off_db == BACK_OFF_DB):
            best = np.where((snr_db >= REQUIRED_SNR_DB[m]) & (goodput[m] > 0), np.maximum(m, best), best)
    return best
