"""The survey output of a radio's tools becomes one row of links.csv, or a one-line error.

The fixtures are written by hand in the format of the tools' documentation.
"""

import csv
import json

import import_survey
import pytest

LINK = [
    "--regulatory-domain", "FCC", "--radio-standard", "ac", "--channel-bandwidth-mhz", "40",
    "--link-distance-m", "4980", "--antenna-gain-dbi", "23", "--tx-power-dbm", "25",
]  # fmt: skip

STATION = """Station 04:18:d6:aa:bb:cc (on wlan0)
\tinactive time:\t10 ms
\tsignal:  \t-58 [-61, -61] dBm
\tsignal avg:\t-59 [-62, -62] dBm
\ttx bitrate:\t390.0 MBit/s VHT-MCS 9 40MHz VHT-NSS 2
"""


def survey(*channels: tuple[int, int, int, int, int], in_use: int = 5180) -> str:
    """Write a survey dump of (MHz, noise dBm, active ms, busy ms, transmit ms)."""
    blocks = []
    for frequency, noise, active, busy, transmit in channels:
        used = " [in use]" if frequency == in_use else ""
        blocks.append(
            f"Survey data from wlan0\n\tfrequency:\t\t\t{frequency} MHz{used}\n\tnoise:\t\t\t\t{noise} dBm\n"
            f"\tchannel active time:\t\t{active} ms\n\tchannel busy time:\t\t{busy} ms\n"
            f"\tchannel receive time:\t\t0 ms\n\tchannel transmit time:\t\t{transmit} ms\n"
        )
    return "".join(blocks)


BEFORE = survey((5180, -92, 1000, 500, 100), (5200, -92, 100, 90, 0), (5745, -90, 100, 10, 0), (5765, -90, 100, 10, 0))
AFTER = survey((5180, -92, 3000, 900, 300), (5200, -92, 200, 100, 0), (5745, -90, 200, 60, 0), (5765, -90, 200, 20, 0))


def run(tmp_path, capsys, surveys, *more, station=STATION, link=LINK):
    paths = []
    for number, text in enumerate(surveys):
        paths.append(tmp_path / f"survey{number}")
        paths[-1].write_text(text)
    (tmp_path / "station").write_text(station)
    words = ["--survey", *map(str, paths), "--station", str(tmp_path / "station"), *link]
    code = import_survey.main([*words, "--out", str(tmp_path / "out.csv"), *more])
    said = capsys.readouterr().err
    if code:
        return code, said
    with open(tmp_path / "out.csv", newline="") as handle:
        (row,) = csv.DictReader(handle)
    return row, said


def lists(row):
    return [json.loads(row[name]) for name in ("available_channels_mhz", "rssi_dbm", "noise_dbm", "busy_pct")]


def test_two_dumps_are_differenced_and_the_radios_own_transmissions_are_taken_out(tmp_path, capsys):
    row, said = run(tmp_path, capsys, [BEFORE, AFTER])
    channels, rssi, noise, busy = lists(row)
    assert channels == [5190, 5755] and "note" not in said
    # 5190 covers 5180 and 5200: (400 - 200) / 2000 and 10 / 100 of the time; 5755 covers 5745 and 5765: .5 and .1
    assert busy == [10, 50]
    # two parts of -92 dBm and of -90 dBm: 3 dB more; free space 20 lg(5755/5190) = .9 dB; FCC allows 46 - 48 dBm
    assert noise == [-89, -87]
    assert rssi[0] == -59 and -62 <= rssi[1] <= -58


def test_one_dump_is_an_average_and_says_so(tmp_path, capsys):
    row, said = run(tmp_path, capsys, [AFTER])
    assert lists(row)[3] == [50, 30] and "since the driver started" in said


def test_counters_that_fell_are_taken_alone_and_named(tmp_path, capsys):
    _, said = run(tmp_path, capsys, [AFTER, BEFORE])
    assert "5180 MHz: its counters fell" in said


def test_a_measured_throughput_makes_a_training_row_of_the_channel_in_use(tmp_path, capsys):
    row, _ = run(tmp_path, capsys, [BEFORE, AFTER], "--measured-mbps", "312")
    assert lists(row)[0] == [5190]
    assert (row["recommended_channel_mhz"], row["expected_throughput_mbps"]) == ("5190", "312")


SCAN = """BSS 00:11:22:33:44:55(on wlan0)
\tfreq: 5180
\tsignal: -71.00 dBm
\tSSID: one
\tBSS Load:
\t\t * station count: 4
\t\t * channel utilisation: 51/255
BSS 00:11:22:33:44:66(on wlan0)
\tfreq: 5200.0
\tsignal: -60.00 dBm
\tBSS Load:
\t\t * channel utilisation: 102/255
"""
MIKROTIK = """Flags: P - PRIMARY; S - SECONDARY
Columns: CHANNEL, NETWORKS, LOAD, NF, MAX-SIGNAL, MIN-SIGNAL
   CHANNEL  NETWORKS  LOAD  NF   MAX-SIGNAL  MIN-SIGNAL
P     5180         3    12  -93         -61         -85
      5200         0     4  -94
"""
UNIFI = json.dumps({"meta": {"rc": "ok"}, "data": [{"radio": "na", "spectrum_table": [
    {"channel": 36, "width": 20, "utilization": 12, "interference": -93},
    {"channel": 40, "width": 20, "utilization": 4, "interference": -94},
    {"channel": 36, "width": 40, "utilization": 99, "interference": -50},
]}]})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "busy", "noise"), [(SCAN, 40, -92), (MIKROTIK, 12, -90), (UNIFI, 12, -90)], ids=["iw", "mikrotik", "unifi"]
)
def test_other_tools_exports_give_the_same_row(tmp_path, capsys, text, busy, noise):
    more = ["--current-channel-mhz", "5180", "--noise-dbm", "-95"]
    row, _ = run(tmp_path, capsys, [text], *more)
    assert lists(row) == [[5190], [-59], [noise], [busy]]


def test_force_replaces_its_own_unchanged_row_and_nothing_else(tmp_path, capsys):
    more = ["--current-channel-mhz", "5180", "--noise-dbm", "-95"]
    (tmp_path / "out.csv").write_text("a person's own table")
    code, said = run(tmp_path, capsys, [UNIFI], *more, "--force")
    assert code == 2 and "was not written by import_survey.py" in said
    assert (tmp_path / "out.csv").read_text() == "a person's own table"
    (tmp_path / "out.csv").unlink()
    first, _ = run(tmp_path, capsys, [UNIFI], *more)
    assert run(tmp_path, capsys, [UNIFI], *more, "--force")[0] == first
    with open(tmp_path / "out.csv", "a") as handle:
        handle.write("a line of mine\n")
    code, said = run(tmp_path, capsys, [UNIFI], *more, "--force")
    assert code == 2 and "was changed after import_survey.py wrote it" in said


HOSTILE = {
    "nested 100,000 deep": ('{"channel": ' + "[" * 100_000 + "]" * 100_000 + "}", "deep"),
    "a number of 5,000 digits": ('[{"channel": ' + "7" * 5_000 + "}]", "5,000 digits"),
    "half a character": ('[{"channel": "\\ud800"}]', "half a character"),
    "a channel without end": ('[{"channel": 1e999, "utilization": 1}]', "a number is expected"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_spectrum_scan_ends_in_one_line(tmp_path, capsys, what):
    text, expected = HOSTILE[what]
    code, said = run(tmp_path, capsys, [text])
    assert code == 2 and said.startswith("error: ") and expected in said and len(said) < 2000


@pytest.mark.parametrize(
    ("surveys", "more", "expected"),
    [
        (["hello\n"], [], "not a survey this script knows"),
        ([AFTER, MIKROTIK], [], "different kinds"),
        ([AFTER, AFTER, AFTER], [], "3 survey dumps"),
        ([SCAN], ["--current-channel-mhz", "5180"], "no 40 MHz channel that FCC allows was measured in full"),
        ([AFTER], ["--current-channel-mhz", "4000"], "4000 MHz is in no 5 GHz channel of 40 MHz"),
        ([AFTER], ["--signal-dbm", "-60"], "give the far end's signal once"),
        ([AFTER], ["--link-distance-m", "60000"], "expected a whole number from 150 to 20000"),
        ([AFTER], ["--regulatory-domain", "Germany"], "'Germany' (choose from "),
        ([AFTER], ["--channel-bandwidth-mhz", "37"], "FCC allows no channel of 37 MHz"),
        (["[" * 100_000 + '"channel"'], [], "not JSON"),
        (["{}channel"], [], "not JSON"),
    ],
)
def test_an_unreadable_survey_is_one_line(tmp_path, capsys, surveys, more, expected):
    code, said = run(tmp_path, capsys, surveys, *more)
    assert code == 2 and expected in said and "Traceback" not in said
    assert not (tmp_path / "out.csv").exists()


def test_several_stations_are_listed(tmp_path, capsys):
    two = STATION + STATION.replace("cc (on", "dd (on").replace("-59", "-70")
    code, said = run(tmp_path, capsys, [AFTER], station=two)
    assert code == 2 and "04:18:d6:aa:bb:cc, 04:18:d6:aa:bb:dd" in said
    row, _ = run(tmp_path, capsys, [AFTER], "--station-address", "04:18:d6:aa:bb:dd", station=two)
    assert lists(row)[1][0] == -70
