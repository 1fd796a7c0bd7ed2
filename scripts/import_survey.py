r"""Turn what a radio's tools print into a row of links.csv, ready for predict.py.

survey dump(s), scan or export, and optionally a station dump -> OUT (a links.csv of one row), OUT's manifest beside it

    python scripts/import_survey.py --survey before.txt after.txt --station station.txt --regulatory-domain FCC \
        --radio-standard ac --channel-bandwidth-mhz 80 --link-distance-m 4980 --antenna-gain-dbi 23 \
        --tx-power-dbm 25 --out survey.csv

docs/field.md says which column can come from where. With --measured-mbps the row is a training example: the channel
in use alone, with the throughput that was measured on it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from linklab import cli, files
from linklab.cli import UserError, say
from linklab.links import field_rows
from linklab.links.links import CANDIDATES
from linklab.manifest import check_out_files, manifest_beside, write_manifest


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which exports are read, what is known of the link, and where the row goes."""

    survey: tuple[Path, ...]
    station: Path | None
    station_address: str | None
    signal_dbm: float | None
    current_channel_mhz: int | None
    noise_dbm: float | None
    measured_mbps: int | None
    out: Path
    force: bool
    columns: dict[str, str]  # the values of the link's options, by column
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    data.add_argument("--survey", type=Path, required=True, nargs="+", metavar="FILE",
                      help="output of `iw dev X survey dump` (two of them: the time between counts), `iw dev X scan`, "
                      "RouterOS frequency-scan, or a UniFi spectrum scan in JSON")  # fmt: skip
    data.add_argument("--station", type=Path, metavar="FILE",
                      help="output of `iw dev X station dump`: the far end's signal")  # fmt: skip
    data.add_argument("--station-address", metavar="MAC", help="which station, when the dump holds several")
    data.add_argument("--signal-dbm", type=float, metavar="DBM", help="the far end's signal, instead of --station")
    data.add_argument("--current-channel-mhz", type=cli.positive_int, metavar="MHZ",
                      help="a frequency of the channel in use; a survey dump's [in use] when left out")  # fmt: skip
    data.add_argument("--noise-dbm", type=float, metavar="DBM", help="noise per 20 MHz where the tool reports none")
    data.add_argument("--measured-mbps", type=cli.positive_int, metavar="N",
                      help="throughput measured on the channel in use: writes a training row of it")  # fmt: skip
    link = parser.add_argument_group("Link (the columns of links.csv)")
    for option, column in field_rows.link_options().items():
        default = field_rows.DEFAULTS.get(column.name)
        metavar = "NAME" if column.kind == "str" else (column.unit or "N").upper()
        link.add_argument(option, dest=column.name, type=field_rows.option_type(column), required=default is None,
                          default=default, choices=column.choices, metavar=metavar,
                          help=field_rows.describe_column(column))  # fmt: skip
    output = parser.add_argument_group("Output")
    output.add_argument("--out", type=Path, required=True, metavar="FILE", help="CSV to write")
    output.add_argument("--force", action="store_true", help="replace an existing file")
    return parser


def read_settings(args: argparse.Namespace) -> Settings:
    """Return the options as typed settings; raises UserError when a signal is missing or given twice."""
    if (args.station is None) == (args.signal_dbm is None):
        raise UserError("give the far end's signal once: --station FILE or --signal-dbm DBM")
    columns = {column.name: str(getattr(args, column.name)) for column in field_rows.link_options().values()}
    return cli.read_settings(Settings, args, columns=columns)


def run(args: argparse.Namespace) -> None:
    """Read the exports, build the row, check it as the validator does, and write it."""
    from linklab.links import surveys

    settings = read_settings(args)
    reads = (*settings.survey, settings.station)
    check_out_files([settings.out], manifest_beside(settings.out), script=__file__, force=settings.force, reads=reads)
    readings, notes = surveys.read_survey([files.read_text(path) for path in settings.survey])
    current = settings.current_channel_mhz or next((r.frequency_mhz for r in readings if r.in_use), None)
    signal = settings.signal_dbm
    if settings.station:
        signal = surveys.read_station(files.read_text(settings.station), settings.station_address)
    assert signal is not None and math.isfinite(signal)
    row, more = field_rows.make_row(
        settings.columns, readings, signal_dbm=signal, current_mhz=current, noise_dbm=settings.noise_dbm,
        measured_mbps=settings.measured_mbps,
    )  # fmt: skip
    for note in [*notes, *more]:
        say(f"note: {note}")
    with files.FileSet(force=settings.force) as together:
        with together.open(settings.out) as handle:
            writer = csv.DictWriter(handle, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerow(row)
        write_manifest(
            manifest_beside(settings.out), together=together, script=__file__, argv=settings.argv, seed=None,
            inputs=dict.fromkeys(filter(None, reads)), outputs={settings.out: 1},
        )  # fmt: skip
    say(f"wrote {settings.out}: one link with channels {row[CANDIDATES]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
