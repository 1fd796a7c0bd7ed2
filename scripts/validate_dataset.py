"""Check every cell, row and column of a CSV and report each violation by line, column and code.

links.csv -> report (JSON) and violations (CSV); exit 0 clean, 1 violations, 2 unreadable

    python scripts/validate_dataset.py links.csv --report report.json --violations violations.csv

The header decides the rules: that of links.csv brings its schema; any other file gets one inferred from its cells
(--schema FILE gives another). Memory does not grow with the file.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from linklab import cli, files, manifest
from linklab.manifest import check_out_files, manifest_beside, write_manifest

if TYPE_CHECKING:
    from linklab.tables.table import TableOptions
    from linklab.validation.validation_report import Findings


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which table is checked, by which rules, and what is written."""

    csv: str
    table: TableOptions
    schema: str | None
    allow_missing: float
    against: str | None
    allow_copies: bool
    report: str | None
    violations: str | None
    max_examples: int
    force: bool
    argv: tuple[str, ...]

    @property
    def outputs(self) -> list[str]:
        """The files that are written."""
        return [path for path in (self.report, self.violations) if path]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    inputs = parser.add_argument_group("Input")
    table = inputs.add_mutually_exclusive_group(required=True)
    table.add_argument("csv", nargs="?", default=argparse.SUPPRESS, metavar="CSV", help="file to check")
    table.add_argument("--csv", metavar="FILE", help="the same, named as in every other script")
    inputs.add_argument("--schema", metavar="FILE", help="schema to check against: a JSON file, `links` or `infer`")
    cli.add_table_options(inputs)
    inputs.add_argument(
        "--allow-missing",
        type=cli.share,
        default=0.5,
        metavar="SHARE",
        help="share of a column's cells that may be empty, 0 to 1, where the schema is inferred",
    )
    inputs.add_argument("--against", metavar="OTHER.csv", help="earlier file to report drift from (KS, PSI, variation)")
    inputs.add_argument("--allow-copies", action="store_true", help="accept exact copies of rows (oversampled data)")
    output = parser.add_argument_group("Output")
    output.add_argument("--report", metavar="FILE", help="JSON with counts, examples, distributions and drift")
    output.add_argument("--violations", metavar="FILE", help="CSV of every violation: line,column,code,value,expected")
    output.add_argument("--max-examples", type=cli.positive_int, default=20, help="examples per code in the report")
    output.add_argument("--force", action="store_true", help="replace existing output files")
    manifest.add_skip_finished_option(output)
    return parser


def run(args: argparse.Namespace) -> int:
    from linklab.tables.table import TableOptions
    from linklab.tables.table_record import lines_of_record

    settings = cli.read_settings(Settings, args, table=TableOptions.from_args(args))
    check_files(settings)
    with files.FileSet(force=settings.force) as together:
        found, earlier = check_rows(settings, together)
        report = write_results(settings, found, earlier, together)
    for line in lines_of_record(found.start.record) if found.start.record else ():
        cli.say(line)
    for note in found.notes[len(found.start.notes) :]:
        cli.say(f"  note: {note}")
    say_report(report, settings.csv, settings.against, settings.outputs)
    return 0 if report["clean"] else 1


def check_files(settings: Settings) -> None:
    """Raise a UserError for files that cannot be read or may not be replaced; report early where a table is damaged."""
    from linklab.tables.dialect import sniff
    from linklab.tables.raw_rows import first_damage

    if outputs := settings.outputs:
        reads = (settings.csv, settings.against, settings.schema)
        check_out_files(outputs, manifest_beside(outputs[0]), script=__file__, force=settings.force, reads=reads)
    for path in filter(None, (settings.csv, settings.against)):
        if not os.path.isdir(path):
            files.require_file(path)
    dialect = sniff(Path(settings.csv), delimiter=settings.table.delimiter, encoding=settings.table.encoding)
    if early := first_damage(Path(settings.csv), dialect):
        cli.say(f"{settings.csv}:{early[0]}: {early[1]}; reading on to name every violation")


def check_rows(settings: Settings, together: files.FileSet) -> tuple[Findings, Findings | None]:
    """Check every row, write each violation to --violations, and return the findings, those of --against too."""
    from linklab.validation.validation_plan import make_plan
    from linklab.validation.validation_report import Tally, validate

    plan = partial(make_plan, schema=settings.schema, options=settings.table, allow_missing=settings.allow_missing)
    temporary = partial(tempfile.TemporaryDirectory, prefix="linklab-table-")
    with temporary() as scratch, violations_writer(settings.violations, together) as write:
        start = plan(settings.csv, scratch=Path(scratch))
        progress = cli.Progress("validating", os.path.getsize(start.path), unit="bytes")
        tally = Tally(settings.max_examples, write)
        found = validate(start, tally, allow_copies=settings.allow_copies, say_at=progress.at)
    if not settings.against:
        return found, None
    with temporary() as scratch:
        return found, validate(plan(settings.against, scratch=Path(scratch)), Tally(0))


def write_results(settings: Settings, found: Findings, earlier: Findings | None, together: files.FileSet) -> dict:
    """Write the report and the manifest, and return the report."""
    from linklab.validation import validation_report

    report, inputs = validation_report.build_report(settings.csv, found), {settings.csv: found.n_rows}
    if settings.against and earlier:
        report["drift"] = {"against": Path(settings.against).name} | validation_report.compare(earlier, found)
        inputs[settings.against] = earlier.n_rows
    if settings.report:
        with together.open(settings.report) as handle:
            handle.write(files.json_text(report))
    if outputs := settings.outputs:
        rows = {settings.report: None, settings.violations: report["violations"]}
        write_manifest(
            manifest_beside(outputs[0]), together=together, script=__file__, argv=settings.argv, seed=None,
            inputs=inputs, outputs={Path(path): rows[path] for path in outputs},
            extra={"verdict": report["verdict"], "check_failed": not report["clean"]},
        )  # fmt: skip
    return report


def find_manifest(args: argparse.Namespace) -> Path:
    """Return the path of this command's manifest; raise UserError if it writes none."""
    from linklab.tables.table import TableOptions

    outputs = cli.read_settings(Settings, args, table=TableOptions()).outputs
    if not outputs:
        raise cli.UserError("--skip-finished needs --report or --violations: without them nothing says it has finished")
    return manifest_beside(outputs[0])


@contextlib.contextmanager
def violations_writer(path: str | None, together: files.FileSet) -> Iterator[Callable[[tuple], None] | None]:
    """Yield a function that writes one violation to the CSV at `path`, or None without a path."""
    if not path:
        yield None
        return
    with together.open(path) as handle:
        writer = files.SheetWriter(handle)
        writer.writerow(("line", "column", "code", "value", "expected"))
        yield writer.writerow


def say_report(report: dict, csv_name: str, against: str | None, written: list[str]) -> None:
    """Print one example per code, the drift, what was written and the verdict."""
    from linklab.validation.cell_checks import LINE_CODES

    for code, count in report["counts"].items():
        v = report["examples"][code][0]
        column = f"column '{v['column']}' = {v['value']!r}: " if v["column"] else ""
        expected = v["expected"] if code in LINE_CODES else f"expected {v['expected']}"
        cli.say(f"{csv_name}:{v['line']}: {column}{expected} [{code}, {count:,} in all]")
    if drift := report.get("drift"):
        moved = ", ".join(drift["drifted"]) or "no column"
        cli.say(f"drift from {against}: {moved} drifted (PSI of .25 or more)")
    cli.say(f"wrote {' and '.join(written)}; {report['verdict']}" if written else report["verdict"])


class NoPandas:
    """Hides pandas from pyarrow, which would import it: unused here, and half the time of a small file."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


def main(argv: list[str] | None = None) -> int:
    return cli.main(build_parser(), manifest.skip_finished(run, __file__, find_manifest), argv)


if __name__ == "__main__":
    sys.meta_path.insert(0, NoPandas)
    raise SystemExit(main())
