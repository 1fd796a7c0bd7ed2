"""Make one row of links.csv from a survey of the channels: the candidates, and the measurements on each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from linklab.cli import Limits, UserError
from linklab.links import surveys
from linklab.links.links import CANDIDATES, FIELD_SCHEMA
from linklab.tables.schema import Column

# Columns that no survey contains and the default prompt does not show; all other columns of a link must be given.
DEFAULTS = {
    "scenario_id": "survey-1", "site_id": "site-1", "environment_type": "rural", "area_density": "low",
    "radar_events_per_day": "0", "fresnel_clear_pct": "100", "obstruction_type": "none", "rain_mm_h": "0",
    "weather_condition": "clear",
}  # fmt: skip


LISTS = (CANDIDATES, "rssi_dbm", "noise_dbm", "busy_pct")


def link_options() -> dict[str, Column]:
    """Return the columns that the user gives for a link, by option: --link-distance-m, ..."""
    stated = [c for c in FIELD_SCHEMA.by_role("id", "group", "input") if not c.kind.startswith("list_")]
    return {"--" + column.name.replace("_", "-"): column for column in stated}


def describe_column(column: Column) -> str:
    """Return a column's meaning with its legal values, for `--help`."""
    legal = ", ".join(column.choices) if column.choices else ""
    if column.low is not None:
        legal = f"{column.low:g} to {column.high:g} {column.unit}".rstrip()
    return (column.description + (f" ({legal})" if legal else "")).replace("%", "%%")


def option_type(column: Column) -> Callable[[str], str | float]:
    """Return the argparse type of a cell of the column: a number in its range, or a text."""
    if column.kind == "str":
        return str
    assert column.low is not None and column.high is not None
    return Limits(int if column.kind == "int" else float, column.low, column.high)


def make_row(
    cells: Mapping[str, str],
    readings: Sequence[surveys.ChannelReading],
    *,
    signal_dbm: float,
    current_mhz: int | None,
    noise_dbm: float | None = None,
    measured_mbps: int | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Return (row of cells, notes) for a link of the given columns.

    Candidates are the channels of the link's width that its domain allows, if all their 20 MHz parts were scanned. The
    signal of a candidate is `signal_dbm`, measured on the channel in use, corrected for the allowed power and for
    free-space loss. With `measured_mbps` the row has only the channel in use, and both targets.
    Raises UserError if no candidate is left, and for a cell outside its column's range.
    """
    from linklab.radio import channels

    domain, width = cells["regulatory_domain"], int(cells["channel_bandwidth_mhz"])
    legal = channels.legal_channels(domain, width)
    if len(legal) == 0:
        raise UserError(f"{domain} allows no channel of {width} MHz outdoors; choose another --channel-bandwidth-mhz")
    notes: list[str] = []
    in_use = _channel_of(current_mhz, width)
    if in_use is None:
        notes.append("the channel in use is not known, so every candidate gets the same signal; give it with "
                     "--current-channel-mhz")  # fmt: skip
    if measured_mbps is not None:
        if in_use is None:
            raise UserError("--measured-mbps needs the channel in use; give it with --current-channel-mhz")
        legal = np.array([in_use])
    candidates: list[int] = []
    measured: list[tuple[int, int, int]] = []  # RSSI, noise, busy of each candidate
    for index in legal:
        parts = [int(f) for f in channels.CENTRE_MHZ[: channels.N_SUBCHANNELS][channels.COVERS[index]]]
        centre = int(channels.CENTRE_MHZ[index])
        combined = surveys.combine(readings, parts)
        if combined is None:
            continue
        noise, busy = combined
        if noise is None and noise_dbm is not None:
            noise = noise_dbm + 10 * math.log10(len(parts))
        if noise is None or busy is None:
            lacking = "noise" if noise is None else "busy time"
            notes.append(f"{centre} MHz: no {lacking} was reported, so it is left out"
                         + ("; give --noise-dbm" if noise is None else ""))  # fmt: skip
            continue
        signal = signal_dbm + _signal_change(cells, in_use, int(index))
        candidates.append(centre)
        measured.append((round(signal), round(noise), round(busy)))
    if not candidates:
        raise UserError(
            f"no {width} MHz channel that {domain} allows was measured in full; scanned: "
            f"{', '.join(str(reading.frequency_mhz) for reading in readings)} MHz"
        )
    lists: dict[str, Sequence[int]] = dict(zip(LISTS, (candidates, *zip(*measured, strict=True)), strict=True))
    row = dict(cells) | {name: json.dumps(values, separators=(",", ":")) for name, values in lists.items()}
    if measured_mbps is not None:
        row |= {"recommended_channel_mhz": str(candidates[0]), "expected_throughput_mbps": str(measured_mbps)}
        lists["expected_throughput_mbps"] = [measured_mbps]
    _check_ranges(lists)
    return {name: row[name] for name in FIELD_SCHEMA.names if name in row}, notes


def _check_ranges(measured: Mapping[str, Sequence[int]]) -> None:
    for column in map(FIELD_SCHEMA.__getitem__, measured):
        assert column.low is not None and column.high is not None
        if outside := [value for value in measured[column.name] if not column.low <= value <= column.high]:
            raise UserError(f"{column.name}: {outside[0]} is outside {column.low:g} to {column.high:g} {column.unit}")


def _channel_of(frequency_mhz: int | None, width: int) -> int | None:
    """Return the index of the channel of `width` that contains a frequency; None for None."""
    from linklab.radio import channels

    if frequency_mhz is None:
        return None
    for index in range(len(channels.CENTRE_MHZ)):
        if channels.WIDTH_MHZ[index] == width and abs(channels.CENTRE_MHZ[index] - frequency_mhz) < width / 2:
            return index
    raise UserError(f"{frequency_mhz} MHz is in no 5 GHz channel of {width} MHz")


def _signal_change(cells: Mapping[str, str], in_use: int | None, index: int) -> float:
    """Return the change of the signal in dB from the channel in use to another: allowed power and free space."""
    from linklab.radio import channels

    if in_use is None:
        return 0.0
    domain = channels.DOMAINS.index(cells["regulatory_domain"])
    power, gain = float(cells["tx_power_dbm"]), float(cells["antenna_gain_dbi"])
    here, there = (float(channels.eirp_dbm(domain, channel, power, gain)) for channel in (in_use, index))
    return there - here - 20 * math.log10(float(channels.CENTRE_MHZ[index]) / float(channels.CENTRE_MHZ[in_use]))
