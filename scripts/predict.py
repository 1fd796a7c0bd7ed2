"""Ask a fine-tuned model about new rows.

model folder + table of new rows -> answers.csv (id, answer and probability per target, error, warning, the input)

    python scripts/predict.py --model runs/lora/model --csv new_links.csv --out answers.csv

The table needs the columns the model's prompt shows; targets and hidden columns may be missing. `--csv -` reads
standard input, `--out -` writes standard output. The answer to a single row is printed as a table, too. Such a row can
be given in the command:

    python scripts/predict.py --model runs/lora/model --set regulatory_domain=FCC channel_bandwidth_mhz=80 …
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from linklab import cli, files
from linklab.cli import UserError
from linklab.manifest import check_out_files, manifest_beside, write_manifest

if TYPE_CHECKING:
    from linklab.inference.row_answers import AskSettings
    from linklab.tables.table import TableOptions


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which rows are answered by which model, and where the answers go."""

    csv: str | None
    given_row: tuple[str, ...] | None  # COL=VALUE of a row in the command, instead of a table
    table: TableOptions
    max_rows: int | None
    out: str | None
    force: bool
    model: str
    asking: AskSettings
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--csv", metavar="FILE", help="rows to answer: any table that convert reads; `-` reads standard input"
    )
    source.add_argument(
        "--set",
        dest="given_row",
        nargs="+",
        metavar="COL=VALUE",
        help="one row to answer, given here; a list as 5210,5530,5775 or [5210,5530,5775]",
    )
    cli.add_max_rows_option(data, "answer at most N rows")
    cli.add_table_options(data, "with --csv: ", only=("--delimiter", "--decimal", "--encoding", "--drop-bad-rows"))
    output = parser.add_argument_group("Output")
    output.add_argument("--out", metavar="FILE", help="CSV to write; `-` writes standard output (optional with --set)")
    output.add_argument("--force", action="store_true", help="replace an existing file")
    model = parser.add_argument_group("Model")
    model.add_argument("--model", required=True, metavar="DIR", help="model folder finetune wrote (it holds task.json)")
    cli.add_asking_options(model)
    return parser


def run(args: argparse.Namespace) -> None:
    from linklab.baselines.link_rules import rule_worths
    from linklab.inference import answer_table, new_rows
    from linklab.inference.row_answers import AskSettings
    from linklab.tables.table import TableOptions
    from linklab.tasks.source import read_trained_task

    asking, table = AskSettings.from_args(args), TableOptions.from_args(args)
    settings = cli.read_settings(Settings, args, asking=asking, table=table)
    if settings.csv and not settings.out:
        raise UserError("--out is needed with --csv: the CSV to write, or - for standard output")
    if settings.out and settings.out != "-":
        reads = [settings.csv, settings.model, asking.base_model]
        check_out_files(
            [settings.out], manifest_beside(settings.out), script=__file__, force=settings.force, reads=reads
        )
    task = read_trained_task(settings.model)
    if task is None:
        raise UserError(
            f"{settings.model}: not a fine-tuned model folder: task.json is missing; give the folder finetune wrote"
        )
    if settings.given_row:
        rows = [("--set", new_rows.read_given_row(settings.given_row, task))]
        header = list(rows[0][1])
    else:
        assert settings.csv is not None, "one of the two is required"
        header, rows = new_rows.read_rows(settings.csv, table, task)
    examples = new_rows.choose_rows(new_rows.make_examples(task, rows), settings.max_rows)
    answered = new_rows.answer(asking, task, examples)
    one_answer = len(answered) == 1 and not answered[0].prediction["error"] and settings.out != "-"
    if settings.given_row or one_answer:
        first = answered[0]
        print(answer_table.format_answer(first, task, rule_worths(first.example, task) if first.scores else {}))
    if settings.out:
        with open_out(settings, settings.out, len(answered)) as handle:
            answer_table.write_answers(handle, task, header, answered)
        answer_table.say_written(settings.out, answered)


@contextlib.contextmanager
def open_out(settings: Settings, out: str, rows: int) -> Iterator[TextIO]:
    """Open the file to write, with a manifest beside it, or standard output for `-`."""
    if out == "-":
        yield sys.stdout
        return
    inputs: dict[str, int | None] = {settings.csv: rows} if settings.csv and settings.csv != "-" else {}
    inputs |= {settings.model: None} if Path(settings.model).is_dir() else {}
    with files.FileSet(force=settings.force) as together:
        with together.open(out) as handle:
            yield handle
        write_manifest(
            manifest_beside(out), together=together, script=__file__, argv=settings.argv, seed=None, inputs=inputs,
            outputs={out: rows},
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
