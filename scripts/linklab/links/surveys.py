"""Read the output of installers' tools about the channels around a radio.

Every reader takes the text of one export and returns readings, one per scanned channel. Formats, as their authors
document them: `iw dev X survey dump`, `iw dev X scan`, `iw dev X station dump` (wireless.kernel.org, nl80211),
RouterOS `/interface/wifi/frequency-scan` (help.mikrotik.com, WiFi), and the UniFi controller's spectrum scan as JSON
(`stat/spectrum-scan`, described by its users; the vendor publishes no schema).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from linklab import files
from linklab.cli import UserError

_SIGNS = {  # format -> pattern that recognises it
    "iw-survey": r"^Survey data from ",
    "iw-scan": r"^BSS [0-9a-fA-F:]{17}",
    "unifi": r"\A\s*[{\[](?s:.*)channel",
    "mikrotik": r"(?i:^\W*CHANNEL\b.*\bLOAD\b|\bload[=:]\s*\d)",
}
BEACON_FLOOR_DBM = -82.0  # IEEE 802.11: a radio does not defer to weaker networks (carrier sense per 20 MHz)


@dataclasses.dataclass(frozen=True)
class ChannelReading:
    """One scanned channel of 20 MHz: centre in MHz, noise in dBm and busy share in % if the tool reports them."""

    frequency_mhz: int
    noise_dbm: float | None = None
    busy_pct: float | None = None
    in_use: bool = False


@dataclasses.dataclass(frozen=True)
class Counters:
    """Cumulative counters of one channel in a survey dump, in ms since the driver started."""

    frequency_mhz: int
    noise_dbm: float | None
    active_ms: float | None
    busy_ms: float | None
    transmit_ms: float | None
    in_use: bool


def recognise(text: str) -> str:
    """Return the format of a text; raises UserError for an unknown one."""
    for kind, pattern in _SIGNS.items():
        if re.search(pattern, text, re.M):
            return kind
    raise UserError(
        "not a survey this script knows; expected the output of `iw dev X survey dump`, `iw dev X scan`, "
        "RouterOS `/interface/wifi/frequency-scan`, or a UniFi spectrum scan as JSON"
    )


def read_survey(texts: Sequence[str]) -> tuple[list[ChannelReading], list[str]]:
    """Return (readings, notes) of one or two exports of the same kind.

    Two survey dumps are subtracted, because their counters run since the driver started; for the other kinds, a channel
    of the second export replaces that of the first.
    """
    kinds = {recognise(text) for text in texts}
    if len(kinds) > 1:
        raise UserError(f"the survey files are of different kinds ({', '.join(sorted(kinds))}); give files of one kind")
    kind = kinds.pop()
    if kind == "iw-survey":
        if len(texts) > 2:
            raise UserError(f"{len(texts)} survey dumps; give one, or two to measure the time between them")
        return difference([read_counters(text) for text in texts])
    reader = {"iw-scan": read_scan, "mikrotik": read_mikrotik, "unifi": read_unifi}[kind]
    found: dict[int, ChannelReading] = {}
    for text in texts:
        found |= {reading.frequency_mhz: reading for reading in reader(text)}
    notes = []
    if kind == "iw-scan":
        notes.append("iw scan reports no noise, and busy time only from access points that announce their load")
    return sorted(found.values(), key=lambda reading: reading.frequency_mhz), notes


def read_counters(text: str) -> list[Counters]:
    """Return the counters of each channel of an `iw dev X survey dump`."""
    counters = []
    for block in re.split(r"^Survey data from .*$", text, flags=re.M)[1:]:
        frequency = re.search(r"frequency:\s*(\d+)\s*MHz(.*)", block)
        if frequency:
            noise = _number(block, r"noise:\s*(-?[\d.]+)\s*dBm")
            active, busy, transmit = (
                _number(block, rf"channel {name} time:\s*(\d+)") for name in ("active", "busy", "transmit")
            )
            counters.append(Counters(int(frequency[1]), noise, active, busy, transmit, "in use" in frequency[2]))
    if not counters:
        raise UserError("the survey dump names no frequency; run `iw dev INTERFACE scan` once, then survey dump again")
    return counters


def difference(dumps: Sequence[list[Counters]]) -> tuple[list[ChannelReading], list[str]]:
    """Return the readings between two survey dumps, or since the driver started when there is one.

    Busy time is that of other radios, without the radio's own transmissions. A channel with unchanged counters was not
    visited between the dumps and has no busy share.
    """
    notes = []
    if len(dumps) == 1:
        notes.append(
            "one survey dump: busy time is the average since the driver started; give two for the time between"
        )
    counted = [c for c in dumps[0] if c.active_ms is not None and c.busy_ms is not None]
    before = {c.frequency_mhz: c for c in counted} if len(dumps) == 2 else {}
    readings = []
    for now in dumps[-1]:
        busy = None
        if now.active_ms is not None and now.busy_ms is not None:
            then = before.get(now.frequency_mhz, Counters(now.frequency_mhz, None, 0.0, 0.0, 0.0, False))
            active, busy_ms = now.active_ms - (then.active_ms or 0.0), now.busy_ms - (then.busy_ms or 0.0)
            own = max(0.0, (now.transmit_ms or 0.0) - (then.transmit_ms or 0.0))
            if active < 0 or busy_ms < 0:
                active, busy_ms, own = now.active_ms, now.busy_ms, now.transmit_ms or 0.0
                notes.append(f"{now.frequency_mhz} MHz: its counters fell between the dumps (driver restarted?); "
                             f"only the second dump is used")  # fmt: skip
            if active > 0:
                busy = 100 * min(1.0, max(0.0, busy_ms - own) / active)
            else:
                notes.append(f"{now.frequency_mhz} MHz: not visited between the dumps, so it has no busy share")
        readings.append(ChannelReading(now.frequency_mhz, now.noise_dbm, busy, now.in_use))
    return readings, notes


def read_scan(text: str) -> list[ChannelReading]:
    """Return readings of an `iw dev X scan`: busy share from the load that access points announce (BSS Load / 255)."""
    loads: dict[int, list[float]] = {}
    for block in re.split(r"^BSS (?=[0-9a-fA-F:]{17})", text, flags=re.M)[1:]:
        frequency, signal = _number(block, r"^\s*freq:\s*([\d.]+)"), _number(block, r"^\s*signal:\s*(-?[\d.]+)")
        if frequency is None or frequency < 5000 or frequency > 5900:
            continue
        own = loads.setdefault(int(frequency), [])
        load = _number(block, r"channel utilisation:\s*(\d+)/255")
        if load is not None and (signal is None or signal >= BEACON_FLOOR_DBM):
            own.append(100 * load / 255)
    if not loads:
        raise UserError("the scan lists no network at 5 GHz; scan with the 5 GHz radio")
    return [ChannelReading(frequency, None, max(own) if own else None) for frequency, own in loads.items()]


def read_mikrotik(text: str) -> list[ChannelReading]:
    """Return readings of RouterOS `/interface/wifi/frequency-scan` (its table, or its save-file's `name=value` lines).

    LOAD is the share of time the channel was busy in %, NF its noise floor in dBm.
    """
    readings = []
    names: list[str] = []
    for line in text.splitlines():
        words = line.replace(",", " ").split()
        if any(word.upper() == "CHANNEL" for word in words) and any(word.upper() == "LOAD" for word in words):
            names = [word.upper() for word in words if word.upper() not in ("COLUMNS:", "FLAGS:")]
            continue
        pairs = dict(re.findall(r"([\w-]+)[=:]\s*\"?(-?\d+)", line))
        if {"channel", "load"} <= pairs.keys():
            cells = {name.upper(): value for name, value in pairs.items()}
        elif names and (numbers := [word.rstrip("%") for word in words if re.fullmatch(r"-?\d+%?", word)]):
            if len(numbers) < 3:
                continue
            cells = dict(zip(names, numbers, strict=False))
        else:
            continue
        noise = cells.get("NF")
        readings.append(ChannelReading(int(cells["CHANNEL"]), float(noise) if noise else None, float(cells["LOAD"])))
    if not readings:
        raise UserError("no channel line in the frequency scan; expected columns CHANNEL, NETWORKS, LOAD, NF, ...")
    return readings


def read_unifi(text: str) -> list[ChannelReading]:
    """Return readings of a UniFi spectrum scan in JSON: the objects with `channel`, `interference` and `utilization`.

    Only measurements of 20 MHz are read: a channel may have been measured at several widths.
    """
    try:
        value = files.parse_json(text)
    except ValueError as error:
        raise UserError(f"not JSON ({error}); export the spectrum scan as the controller's API returns it") from error
    readings = []
    for entry in _objects(value):
        if "channel" not in entry or not {"utilization", "interference"} & entry.keys():
            continue
        try:
            number, width = int(entry["channel"]), int(entry.get("width", 20))
            noise = float(entry["interference"]) if entry.get("interference") is not None else None
            busy = float(entry["utilization"]) if entry.get("utilization") is not None else None
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"channel {entry.get('channel')!r}: a number is expected ({error})") from error
        if number >= 32 and width == 20:
            readings.append(ChannelReading(5000 + 5 * number, noise, busy))
    if not readings:
        raise UserError("the JSON holds no 5 GHz spectrum measurements (objects with channel, width 20, utilization)")
    return readings


def read_station(text: str, address: str | None = None) -> float:
    """Return the signal in dBm (the average, if reported) of the far end in an `iw dev X station dump`.

    `address` selects the far end if there are several.
    """
    blocks = re.split(r"^Station (?=[0-9a-fA-F:]{17})", text, flags=re.M)[1:]
    if not blocks:
        raise UserError("no station in the dump; expected the output of `iw dev INTERFACE station dump`")
    if address:
        blocks = [block for block in blocks if block.lower().startswith(address.lower())]
    if len(blocks) != 1:
        known = ", ".join(re.findall(r"^Station ([0-9a-fA-F:]{17})", text, flags=re.M))
        raise UserError(f"one station is expected; name one of {known} with --station-address")
    average = _number(blocks[0], r"signal avg:\s*(-?\d+)")
    signal = _number(blocks[0], r"signal:\s*(-?\d+)") if average is None else average
    if signal is None:
        raise UserError("the station dump holds no signal; send some traffic over the link and dump again")
    return signal


def combine(
    readings: Iterable[ChannelReading], frequencies_mhz: Sequence[int]
) -> tuple[float | None, float | None] | None:
    """Return (noise dBm, busy %) over the 20 MHz parts of a wider channel; None when a part was not scanned.

    Noise powers add. Busy is that of the busiest part, because a neighbour as wide as the channel is heard on all
    parts; with neighbours on different parts, the true share is higher.
    """
    found = {reading.frequency_mhz: reading for reading in readings}
    if any(frequency not in found for frequency in frequencies_mhz):
        return None
    parts = [found[frequency] for frequency in frequencies_mhz]
    noises = [part.noise_dbm for part in parts if part.noise_dbm is not None]
    busy = [part.busy_pct for part in parts if part.busy_pct is not None]
    noise = 10 * math.log10(sum(10 ** (value / 10) for value in noises)) if len(noises) == len(parts) else None
    return noise, max(busy) if len(busy) == len(parts) else None


def _number(text: str, pattern: str) -> float | None:
    found = re.search(pattern, text, re.M)
    return float(found[1]) if found else None


def _objects(value: object, depth: int = 0) -> Iterable[dict]:
    """Yield every JSON object inside a value, to a depth of 20."""
    if depth > 20:
        return
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for element in value:
            yield from _objects(element, depth + 1)
