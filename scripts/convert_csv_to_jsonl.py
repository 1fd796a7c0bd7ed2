"""Convert a table to conversations a language model can be trained on, split without leaks.

links.csv, or any CSV, Excel, Parquet or JSON Lines table -> train|validation|test JSONL shards, cells.csv, task.json,
README.md (data card), manifest.json

    python scripts/convert_csv_to_jsonl.py --csv runs/data/links.csv --out-dir runs/jsonl

Rows are read and written block by block, so memory does not grow with the file. The folder loads as it is with
datasets.load_dataset(FOLDER) and trains as it is with TRL's SFTTrainer.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from linklab import cli, files, manifest
from linklab.manifest import check_out_dir, read_preset, staged_folder, write_manifest
from linklab.training.options import TrainingSettings

if TYPE_CHECKING:
    from linklab.tasks.source import Source

SHARD_SIZE = 50_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which rows are converted, and how they are written."""

    source: Source
    max_rows: int | None
    base_model: str | None
    max_length: int
    out_dir: str
    shard_size: int
    workers: int | None
    export_for: tuple[str, ...]
    force: bool
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    data.add_argument("--csv", required=True, metavar="FILE", help="the rows to convert")
    cli.add_row_options(data)
    cli.add_max_rows_option(data, "convert at most N rows")
    data.add_argument(
        "--base-model",
        metavar="NAME",
        help="the model that will be trained on these rows: a Hub id, a folder, `embedded` or `tiny`; rows too long "
        "for it are then an error here instead of in training (default: not checked)",
    )
    data.add_argument(
        "--max-length",
        type=cli.positive_int,
        default=TrainingSettings.max_length,
        metavar="N",
        help="maximum tokens per row for --base-model, as in finetune_gemma_from_csv.py",
    )
    output = parser.add_argument_group("Output")
    output.add_argument("--out-dir", required=True, metavar="DIR", help="folder to make")
    output.add_argument("--shard-size", type=cli.positive_int, default=SHARD_SIZE, metavar="N", help="rows per shard")
    output.add_argument(
        "--workers",
        type=cli.positive_int,
        metavar="N",
        help="number of processes; the output is the same for any number (default: all usable cores)",
    )
    output.add_argument(
        "--export-for",
        type=cli.comma_list,
        default=[],
        metavar="PROGRAM[,PROGRAM]",
        help="also write exports/PROGRAM with the files it expects: trl, llamafactory, axolotl, mlx, lm-eval, openai",
    )
    output.add_argument("--force", action="store_true", help="replace a folder an earlier run made")
    manifest.add_skip_finished_option(output)
    again = parser.add_argument_group("Reproducibility")
    again.add_argument(
        "--split-seed", type=cli.seed_number, default=0, metavar="N", help="seed of the train/validation/test split"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    from linklab.reports.conversation_card import write_card
    from linklab.tasks import conversion, exports, jsonl, row_cells
    from linklab.tasks.source import Source, open_table_task, say_table

    settings = cli.read_settings(Settings, args, source=Source.from_args(args))
    if unknown := [name for name in settings.export_for if name not in exports.PROGRAMS]:
        raise cli.UserError(f"--export-for {unknown[0]}: not known; the programs are: {', '.join(exports.PROGRAMS)}")
    reads, seed, template = settings.source.paths(), settings.source.split_seed or 0, settings.source.prompt_template
    check_out_dir(settings.out_dir, script=__file__, force=settings.force, reads=reads)
    table, task = open_table_task(settings.source)
    last = conversion.find_last_row(table, task, settings.max_rows) if settings.max_rows else None
    task = dataclasses.replace(task, split=conversion.choose_rule(table, task, last, seed))
    with staged_folder(settings.out_dir, script=__file__, force=settings.force, reads=reads) as folder:
        written = conversion.write_rows(
            folder, table, task, last, shard_size=settings.shard_size, workers=settings.workers
        )
        task, rows, names = written.split_count.finish(table), written.split_count.rows, written.names
        if settings.base_model:
            from linklab.training.conversation_lengths import check_lengths

            shards = [folder / name for own in names.values() for name in own]
            check_lengths(shards, settings.base_model, settings.max_length)
        files.write_json(folder / jsonl.TASK_FILE, task.to_dict())
        files.write_text(folder / "README.md", write_card(task, written.features, names, rows, table.path))
        exported = exports.write_exports(folder, settings.export_for, {split: list(names[split]) for split in names})
        read = sum(rows.values()) + written.copies
        outputs = {folder / name: n for own in names.values() for name, n in own.items()}
        outputs[folder / row_cells.CELLS_FILE] = read
        write_manifest(
            folder, script=__file__, argv=settings.argv, seed=seed,
            inputs={table.path: read} | ({template: None} if template else {}),
            outputs=outputs | dict.fromkeys(exported) | {folder / jsonl.TASK_FILE: None, folder / "README.md": None},
            extra={"rows": rows, "copies_left_out": written.copies, "left_out": task.table.get("left_out", {}),
                   **read_preset(table.path.parent)},
        )  # fmt: skip
    say_table(task)
    counts = ", ".join(f"{n:,} {split}" for split, n in rows.items())
    left_out = f"; left out {written.copies:,} copies outside training" if written.copies else ""
    cli.say(f"wrote {settings.out_dir}: {counts} rows{left_out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
