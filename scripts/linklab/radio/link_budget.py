"""From transmitter to SINR: noise floor, received power, and the effect of neighbours' transmissions on both ends.

Interference is computed on flat, ragged arrays: one entry per (interferer, channel of the link's own width that it
touches), about three entries per interferer. Channels of one width tile the band, so a table of 45 x 4 cases holds
all the geometry.
"""

from __future__ import annotations

import numpy as np

from linklab.radio import propagation
from linklab.radio.arrays import Numbers
from linklab.radio.channels import CENTRE_MHZ, COVERS, FIRST_OF_LEVEL, N_SUBCHANNELS, POSITION

CARRIER_SENSE_DBM = -82.0  # per 20 MHz: a radio defers to signals above this (IEEE 802.11 CCA)
LEAKAGE = 10 ** (-26 / 10)  # share of a sub-channel's power that appears in the next one
_PER_DB = np.log(10) / 10  # exp(this x dB) is 10^(dB / 10) at a fifth of the time
_NOISE_290K_DBM_HZ = -173.975  # 10 lg(k 290 K / 1 mW)


def to_mw(dbm: Numbers) -> np.ndarray:
    """dBm -> mW: -30 -> .001"""
    return np.exp(_PER_DB * np.asarray(dbm))


def to_dbm(mw: Numbers) -> Numbers:
    """mW -> dBm: .001 -> -30"""
    return 10 * np.log10(mw)


def noise_floor_dbm(width_mhz: Numbers, noise_figure_db: Numbers = 0.0) -> Numbers:
    """Thermal noise in dBm over a bandwidth in MHz at 290 K: 20 MHz -> -100.965; 80 MHz -> -94.944."""
    return _NOISE_290K_DBM_HZ + 60 + 10 * np.log10(width_mhz) + noise_figure_db


def rssi_dbm(
    eirp_dbm: Numbers,
    receive_gain_dbi: Numbers,
    distance_km: Numbers,
    frequency_mhz: Numbers,
    extra_loss_db: Numbers = 0.0,
) -> Numbers:
    """Received power in dBm after free space, gas and `extra_loss_db` (rain, obstacles, pointing)."""
    loss_db = propagation.free_space_loss_db(distance_km, frequency_mhz) + propagation.gas_loss_db(distance_km)
    return eirp_dbm + receive_gain_dbi - loss_db - extra_loss_db


def _touch_table() -> tuple[np.ndarray, ...]:
    """For every (interferer channel, level of the link): the link channels it touches, and how.

    Returns start (45, 4), count (45, 4) and, per entry, the position of the touched channel within its level, the
    power it receives in units of the interferer's power per sub-channel, and whether the two channels overlap.
    """
    centres = CENTRE_MHZ[:N_SUBCHANNELS]
    neighbours = np.abs(centres[:, None] - centres) == 20
    beside = (COVERS @ neighbours) & ~COVERS
    inside, leaked = (own.astype(int) @ COVERS.T for own in (COVERS, beside))  # sub-channels shared, (45, 45)
    touches = inside + leaked > 0
    count = np.add.reduceat(touches.astype(int), FIRST_OF_LEVEL, axis=1)
    start = (np.cumsum(count) - count.ravel()).reshape(count.shape)
    power = inside + LEAKAGE * leaked
    return start, count, POSITION[np.nonzero(touches)[1]], power[touches], inside[touches] > 0


_START, _COUNT, _POSITION, _POWER, _OVERLAPS = _touch_table()


def ragged_positions(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Flat indices start[i], start[i]+1, ... for count[i] each: ([0, 5], [2, 3]) -> [0 1 5 6 7]."""
    ends = np.cumsum(count)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(start - (ends - count), count)


def interference(
    link: np.ndarray,
    level_of_link: np.ndarray,
    channel: np.ndarray,
    sub_power_a_dbm: np.ndarray,
    sub_power_b_dbm: np.ndarray,
    duty: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The effect of interferers on every channel of their link's own width.

    Flat arrays (n_interferers,): `link` (row of the link), `channel` (index 0..44 of the interferer), its power per
    20 MHz at A and at B in dBm, and `duty`, the share of time it transmits. `level_of_link` (n_links,): 0..3.
    Returns (n_links, 25) arrays by position within the level: interference at B in mW, and idle share of time at A.

    A defers to a neighbour it hears on the same channel: that neighbour costs time, not SINR. All others (unheard,
    or beside the channel) add their mean power at B, -26 dB into the next sub-channel.
    """
    level = level_of_link[link]
    count = _COUNT[channel, level]
    entry = ragged_positions(_START[channel, level], count)
    cell = np.repeat(link * N_SUBCHANNELS, count) + _POSITION[entry]
    defers = np.repeat(sub_power_a_dbm > CARRIER_SENSE_DBM, count) & _OVERLAPS[entry]
    mean_mw = np.repeat(duty * to_mw(sub_power_b_dbm), count) * (_POWER[entry] * ~defers)
    busy_log = np.repeat(np.log1p(-np.minimum(duty, 1 - 1e-9)), count) * defers
    size = len(level_of_link) * N_SUBCHANNELS
    power_mw = np.bincount(cell, mean_mw, size)
    idle = np.exp(np.bincount(cell, busy_log, size))
    return power_mw.reshape(-1, N_SUBCHANNELS), idle.reshape(-1, N_SUBCHANNELS)
