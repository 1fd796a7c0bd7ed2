"""The columns of links.csv: one row is one outdoor 5 GHz bridge that has measured every channel it may use.

Inputs are the values that an installer's radio shows. Hidden columns are known only afterwards (true interference, the
best channel's SINR and MCS, the true throughput of every channel): a prompt that showed them would reveal the answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from linklab.tables.schema import Column, Schema

CANDIDATES = "available_channels_mhz"
# With --ask choices, throughputs are written in tens of Mbit/s: measurement errors change them by 20 to 30 Mbit/s, so
# the last digit would be noise.
ANSWER_UNIT_MBPS = 10
_CHANNELS: dict[str, Any] = {"kind": "list_int", "unit": "MHz", "low": 5180, "high": 5825}
_PER_CANDIDATE: dict[str, Any] = {"aligned_with": CANDIDATES}


def _input(name: str, kind: str, description: str, **more: Any) -> Column:
    return Column(name, "input", kind, description=description, **more)


def _hidden(name: str, kind: str, description: str, **more: Any) -> Column:
    return Column(name, "hidden", kind, description=description, **more)


LINK_SCHEMA = Schema(
    (
        Column("scenario_id", "id", "str", description="number of the row in its seed's stream: L00000001, …"),
        Column("site_id", "group", "str", description="the location of end A; its rows share neighbours and rules"),
        _input("regulatory_domain", "str", "the regulatory rules that apply", choices=("FCC", "ETSI", "ETSI_BFWA")),
        _input("environment_type", "str", "surroundings of the link", choices=("urban", "rural")),
        _input("area_density", "str", "how crowded the band is there", choices=("low", "medium", "high")),
        _input("radio_standard", "str", "802.11ac or 802.11ax, two streams", choices=("ac", "ax")),
        _input("channel_bandwidth_mhz", "int", "width of the channel: 20, 40, 80 or 160", unit="MHz", low=20, high=160),
        _input("link_distance_m", "int", "distance from A to B over ground", unit="m", low=150, high=20000),
        _input("antenna_gain_dbi", "int", "gain of the antenna at either end", unit="dBi", low=13, high=30),
        _input("tx_power_dbm", "int", "highest power the radio feeds its antenna", unit="dBm", low=22, high=27),
        _input("radar_events_per_day", "float", "radar detections seen on DFS channels", unit="1/day", low=0, high=2,
               decimals=1),
        _input("fresnel_clear_pct", "int", "clearance of the first Fresnel zone at the worst obstacle, in % of its "
               "radius; negative: the obstacle stands above the line of sight", unit="%", low=-100, high=100),
        _input("obstruction_type", "str", "obstacle in the inner 57 % of the zone",
               choices=("none", "building", "trees", "terrain")),
        _input("rain_mm_h", "float", "present rain rate", unit="mm/h", low=0, high=80, decimals=1),
        _input("weather_condition", "str", "present weather", choices=("clear", "rain", "fog", "snow")),
        _input(CANDIDATES, description="centres of the channels this radio may use, rising", **_CHANNELS),
        _input("rssi_dbm", "list_int", "reported signal at B on each candidate", unit="dBm", low=-120, high=0,
               **_PER_CANDIDATE),
        _input("noise_dbm", "list_int", "reported noise and interference at B over the channel", unit="dBm", low=-110,
               high=-20, **_PER_CANDIDATE),
        _input("busy_pct", "list_int", "reported share of time A hears the channel busy", unit="%", low=0, high=100,
               **_PER_CANDIDATE),
        Column("recommended_channel_mhz", "target", "int", unit="MHz", low=5180, high=5825, class_target=True,
               choices_from=CANDIDATES, utility_from="channel_throughput_mbps",
               description="the candidate with the highest expected throughput"),
        Column("expected_throughput_mbps", "target", "int", unit="Mbit/s", low=5, high=1000,
               worth_of="recommended_channel_mhz",
               description="expected throughput of that channel, at most the radio's gigabit port"),
        _hidden("lat_a", "float", "latitude of A", unit="deg", low=-90, high=90, decimals=6),
        _hidden("lon_a", "float", "longitude of A", unit="deg", low=-180, high=180, decimals=6),
        _hidden("lat_b", "float", "latitude of B", unit="deg", low=-90, high=90, decimals=6),
        _hidden("lon_b", "float", "longitude of B", unit="deg", low=-180, high=180, decimals=6),
        _hidden("interferer_count", "int", "radios drawn around the link", low=0, high=200),
        _hidden("true_noise_dbm", "list_float", "true noise and interference", unit="dBm", low=-110, high=0,
                decimals=2, **_PER_CANDIDATE),
        _hidden("true_busy_pct", "list_float", "true busy share", unit="%", low=0, high=100, decimals=2,
                **_PER_CANDIDATE),
        _hidden("sinr_db", "list_float", "true ratio of signal to noise and interference", unit="dB", low=-90, high=120,
                decimals=2, **_PER_CANDIDATE),
        _hidden("channel_throughput_mbps", "list_float", "expected throughput of each candidate, not capped",
                unit="Mbit/s", low=0, high=2402, decimals=3, **_PER_CANDIDATE),
        _hidden("acceptable_channels_mhz", description="candidates within 5 % of the best", **_CHANNELS),
        _hidden("second_best_gap_pct", "float", "gap between the best candidate and the second best", unit="%", low=0,
                high=100, decimals=2),
        _hidden("mcs_index", "int", "modulation and coding scheme of the best channel", low=0, high=11),
        _hidden("availability_pct", "float", "share of the worst month without a multipath outage", unit="%", low=0,
                high=100, decimals=4),
    )
)  # fmt: skip

# Only the columns that decide a link: weather, obstacles and surroundings already show in RSSI, noise and busy, and
# each extra word costs a token. Gemma needs one token per digit and one for " -", so a candidate costs 14.
LINK_TEMPLATE = (
    "{regulatory_domain} {radio_standard} {channel_bandwidth_mhz} MHz {link_distance_m} m "
    "{tx_power_dbm} dBm {antenna_gain_dbi} dBi radar {radar_events_per_day}\n"
    "{available_channels_mhz} {rssi_dbm} {noise_dbm} {busy_pct}"
)
# For one question per candidate: only what its throughput depends on. Boosted trees on these five values
# are as good as on all columns; 16 questions of 20 tokens teach more than 16 of 49 (docs/results/experiments.md).
LINK_CHOICES_TEMPLATE = (
    "{regulatory_domain} {radio_standard} {channel_bandwidth_mhz}\n{rssi_dbm - noise_dbm} {busy_pct}"
)

# The columns that link rules (least noise, most SNR, …) and the generator's formula read.
RADIO_COLUMNS = frozenset(
    ("available_channels_mhz", "rssi_dbm", "noise_dbm", "busy_pct", "radio_standard", "regulatory_domain",
     "antenna_gain_dbi", "tx_power_dbm", "radar_events_per_day", "link_distance_m", "channel_bandwidth_mhz")
)  # fmt: skip

# The columns of field data: the worth of each choice is hidden and unknown there, so there is no regret.
FIELD_SCHEMA = Schema(
    tuple(dataclasses.replace(c, utility_from=None) for c in LINK_SCHEMA.by_role("id", "group", "input", "target"))
)

# The columns by which simple rules group links, per kind of target: they decide the legal channels; the radio's rate
GROUP_COLUMNS = {
    "class": ("regulatory_domain", "channel_bandwidth_mhz"),
    "number": ("radio_standard", "channel_bandwidth_mhz"),
}
