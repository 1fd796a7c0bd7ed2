"""Score what a model has to beat: random and frequent answers, the field's rules, boosted trees and the ceiling.

conversations, links.csv or any CSV -> a folder per baseline (predictions.jsonl, metrics.json, row_scores.csv, …),
summary.csv, summary.md, manifest.json

    python scripts/run_baselines.py --data runs/jsonl --out-dir runs/baselines

A folder of conversations says what its rows are; with --csv the options must be those of convert_csv_to_jsonl.py.
Every baseline learns from the train split and answers the same rows, which compare_results.py sets beside models'.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linklab import cli, manifest
from linklab.manifest import check_out_dir, read_preset, staged_folder, write_manifest

if TYPE_CHECKING:
    from linklab.baselines.registry import Baseline
    from linklab.tasks.source import Reader, Source
    from linklab.tasks.task import Task

PRESETS = ("easy", "standard", "hard")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which rows are answered by which baselines, and where the scores go."""

    source: Source
    split: str
    max_rows: int | None
    max_train_rows: int | None
    only: tuple[str, ...] | None
    group_by: tuple[str, ...] | None
    preset: str | None
    out_dir: str
    force: bool
    seed: int
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", metavar="FILE", help="the rows, with their answers")
    source.add_argument("--data", metavar="PATH", help=cli.DATA_HELP)
    cli.add_row_options(data)
    data.add_argument("--split", default="test", choices=("train", "validation", "test"), help="rows to answer")
    cli.add_max_rows_option(data, "answer at most N rows of the split")
    cli.add_max_rows_option(data, "learn from at most N rows of the train split", "--max-train-rows")
    rules = parser.add_argument_group("Baselines")
    rules.add_argument(
        "--only", type=cli.comma_list, metavar="NAME[,NAME]", help="run only these (default: all that fit)"
    )
    rules.add_argument(
        "--group-by",
        type=cli.comma_list,
        metavar="COL[,COL]",
        help="columns frequency_by_group groups by (default: domain or standard, and width, for links; "
        "none, so left out, for any other CSV)",
    )
    rules.add_argument(
        "--preset",
        choices=PRESETS,
        help="noise of the reported values of links, for the ceiling "
        "(default: what the manifest beside the rows says, else standard)",
    )
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", required=True, metavar="DIR", help="folder to make")
    output.add_argument("--force", action="store_true", help="replace a folder an earlier run made")
    manifest.add_skip_finished_option(output)
    again = parser.add_argument_group("Reproducibility")
    again.add_argument(
        "--seed", type=cli.seed_number, default=0, metavar="N", help="seed of random answers, trees and the ceiling"
    )
    again.add_argument(
        "--split-seed", type=cli.seed_number, default=0, metavar="N", help="as given to convert_csv_to_jsonl.py"
    )
    return parser


def check_columns(task: Task, names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns to group by; a UserError for a column that the prompt does not show."""
    from linklab.tasks.row_cells import shown_columns

    shown = [column.name for column in shown_columns(task)]
    for name in names:
        if name not in shown:
            role = task.schema[name].role
            raise cli.UserError(
                f"--group-by {name}: {'an' if role in ('id', 'input') else 'a'} {role} column the prompt does not "
                f"show; the shown columns are: {', '.join(shown)}"
            )
    return tuple(names)


def choose(found: dict[str, Baseline], only: Sequence[str] | None) -> dict[str, Baseline]:
    """Return the baselines asked for; a UserError lists the names."""
    for name in only or []:
        if name not in found:
            raise cli.UserError(f"--only {name}: no such baseline for this task; available: {', '.join(found)}")
    return {name: baseline for name, baseline in found.items() if only is None or name in only}


def open_rows(source: Source) -> tuple[Task, Reader]:
    """Return the task, and a function (split, max_rows) -> examples with the cells of their shown columns."""
    from linklab.tasks import conversations, jsonl, row_cells
    from linklab.tasks.source import open_source

    task, read = open_source(source)
    if not source.data or conversations.conversation_files(source.data):
        return task, read
    folder = source.data
    return task, lambda split, n: row_cells.attach_cells(folder, task, jsonl.read_examples(folder, split, n))


def run(args: argparse.Namespace) -> None:
    from linklab.baselines import registry
    from linklab.baselines.problem import Problem
    from linklab.metrics import comparison, metrics
    from linklab.reports import summary
    from linklab.tasks.source import Source, say_table, source_files

    settings = cli.read_settings(Settings, args, source=Source.from_args(args))
    source = settings.source
    reads = source.paths()
    check_out_dir(settings.out_dir, script=__file__, force=settings.force, reads=reads)
    task, read = open_rows(source)
    test, train = read(settings.split, settings.max_rows), read("train", settings.max_train_rows)
    preset = settings.preset or read_preset(Path(source.csv or f"{source.data}/x").parent).get("preset")
    problem = Problem(
        train, test, task, settings.seed, check_columns(task, settings.group_by or ()), preset or "standard",
    )  # fmt: skip
    chosen = choose(registry.available(problem), settings.only)
    say_table(task)

    with staged_folder(settings.out_dir, script=__file__, force=settings.force, reads=reads) as folder:
        for name, baseline in chosen.items():
            started = time.perf_counter()
            predictions, targets = registry.predict(problem, baseline)
            seconds = time.perf_counter() - started
            result = metrics.write_run(
                folder / name, test, predictions, task, model=name, role=baseline.role, targets=targets,
                description=baseline.description, seed=settings.seed,
                cost={"seconds": round(seconds, 3), "rows_per_second": round(len(test) / max(seconds, 1e-6), 1)},
            )  # fmt: skip
            cli.say(f"{name}: {summary.headline(result)} in {seconds:.1f} s")
        runs = comparison.read_runs([folder])
        outputs = summary.write_summary(folder, runs, train_rows=len(train))
        folders = {path: len(test) if path.suffix in (".jsonl",) else None for name in chosen
                   for path in sorted((folder / name).iterdir())}  # fmt: skip
        write_manifest(
            folder, script=__file__, argv=settings.argv, seed=settings.seed,
            inputs=source_files(source) | ({source.prompt_template: None} if source.prompt_template else {}),
            outputs=folders | dict.fromkeys(outputs),
            extra={"split": settings.split, "rows": len(test), "train_rows": len(train), "preset": problem.preset},
        )  # fmt: skip
    cli.say(f"{settings.out_dir}: {len(chosen)} baselines on {len(test):,} {settings.split} rows, summary.md")


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
