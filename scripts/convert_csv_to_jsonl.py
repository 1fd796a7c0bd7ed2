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
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from linklab import cli, files, manifest
from linklab.manifest import check_out_dir, read_preset, staged_folder, write_manifest
from linklab.training.options import TrainingSettings

if TYPE_CHECKING:
    from linklab.tables.csv_stream import Block
    from linklab.tables.table import Table
    from linklab.tasks.jsonl import CardFeatures, Converted
    from linklab.tasks.source import Source
    from linklab.tasks.split_count import SplitCount
    from linklab.tasks.splits import SplitRule
    from linklab.tasks.task import Task

    LastRow = tuple[tuple[float, str], int]  # rank key and number of a row, see `splits.last_chosen`

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


class Written(NamedTuple):
    """What was written of the rows: shards with their rows, and what was counted on the way."""

    names: dict[str, dict[str, int]]  # split -> shard -> rows
    features: CardFeatures
    split_count: SplitCount
    copies: int  # left out of validation and test


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
        help="processes that convert; does not change a byte (default: all usable cores)",
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
    from linklab.tasks import exports, jsonl, row_cells
    from linklab.tasks.source import Source, open_table_task, say_table

    settings = cli.read_settings(Settings, args, source=Source.from_args(args))
    if unknown := [name for name in settings.export_for if name not in exports.PROGRAMS]:
        raise cli.UserError(f"--export-for {unknown[0]}: not known; the programs are: {', '.join(exports.PROGRAMS)}")
    reads, seed, template = settings.source.paths(), settings.source.split_seed or 0, settings.source.prompt_template
    check_out_dir(settings.out_dir, script=__file__, force=settings.force, reads=reads)
    table, task = open_table_task(settings.source)
    last = find_last_row(table, task, settings.max_rows) if settings.max_rows else None
    task = dataclasses.replace(task, split=settle_rule(table, task, last, seed))
    with staged_folder(settings.out_dir, script=__file__, force=settings.force, reads=reads) as folder:
        written = write_rows(folder, table, task, last, settings)
        task, rows, names = written.split_count.finish(table), written.split_count.rows, written.names
        if settings.base_model:
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


def write_rows(folder: Path, table: Table, task: Task, last: LastRow | None, settings: Settings) -> Written:
    """Write the conversations of every split and the cells, block by block; `last` is the last row of --max-rows."""
    from linklab.tasks import jsonl, row_cells
    from linklab.tasks.split_count import SplitCount
    from linklab.tasks.splits import SPLITS

    writers = {split: ShardWriter(folder, split, settings.shard_size) for split in SPLITS}
    features, ids, count = jsonl.CardFeatures(task), SeenTexts(), SplitCount(task, SeenTexts().add)
    copies = 0
    with open(folder / row_cells.CELLS_FILE, "w", encoding="utf-8", newline="") as cells:
        cells.write(row_cells.csv_lines([["id", *(column.name for column in row_cells.shown_columns(task))]]))
        for converted in convert(table, task, last=last, workers=settings.workers):
            features.merge(converted.features)
            cells.write(converted.cells)
            count.merge(converted.split_count)
            lines = {"train": converted.train, "validation": [], "test": []}
            for split, row_id, line in converted.others:
                if ids.add(row_id):  # copies (oversampling) may weigh in training; a scorer wants each row once
                    lines[split].append(line)
                else:
                    copies += 1
                    count.rows[split] -= 1
            for split, writer in writers.items():
                writer.write(lines[split])
    names = {split: writer.finish() for split, writer in writers.items()}
    return Written(names, features, count, copies)


def convert(table: Table, task: Task, *, last: LastRow | None, workers: int | None) -> Iterator[Converted]:
    """Yield the converted rows block by block, in the table's order, from as many processes as are worth starting."""
    from linklab.parallel import map_in_order, usable_cores
    from linklab.tables.csv_stream import BLOCK_BYTES
    from linklab.tasks.jsonl import convert_block

    size, done = files.size_of(table.path), 0
    assert task.split, "settled before anything is converted"
    work = partial(
        convert_block, path=table.path, task=task, last=last, seed=task.split.seed, fractions=task.split.fractions
    )
    workers = min(workers or usable_cores(), -(-size // BLOCK_BYTES))
    progress = cli.Progress("convert", size, unit="bytes")
    with closing(map_in_order(work, numbered_blocks(table), workers)) as results:
        for converted in results:
            yield converted
            done += 1
            progress.at(min(done * BLOCK_BYTES, size))


def find_last_row(table: Table, task: Task, max_rows: int) -> LastRow | None:
    """Return the rank and number of the last of `max_rows` rows chosen as every script chooses them (by their id)."""
    from linklab.tasks.splits import last_chosen

    return last_chosen((row_id for row_id, _ in named_rows(table, task)), max_rows)


def settle_rule(table: Table, task: Task, last: LastRow | None, seed: int) -> SplitRule:
    """Return how the rows that --max-rows chooses are divided; reads only as far as it takes to know."""
    from linklab.tasks.examples import ExampleMaker
    from linklab.tasks.splits import rank_key

    rows = enumerate(named_rows(table, task), start=1)
    chosen = (cells for number, (row_id, cells) in rows if last is None or (rank_key(row_id), number) <= last)
    return ExampleMaker(task, seed=seed).settle_rule(chosen)


def named_rows(table: Table, task: Task) -> Iterator[tuple[str, list[str]]]:
    """Yield (id, cells) of every row."""
    id_column = task.schema.one_of_role("id")
    at = task.schema.names.index(id_column.name) if id_column else None
    for number, (_, cells) in enumerate(table.rows(), start=1):
        yield f"row-{number}" if at is None else cells[at], cells


def numbered_blocks(table: Table) -> Iterator[tuple[int, Block]]:
    """Yield (number of its first row, block) of a table."""
    number = 1
    for block in table.blocks():
        yield number, block
        number += block.n_rows


def check_lengths(shards: Sequence[Path], base_model: str, max_length: int) -> None:
    """Raise CheckFailed where a conversation has more than `max_length` tokens of the base model's tokenizer."""
    from linklab.models import load
    from linklab.tasks.jsonl import read_lines
    from linklab.training.answer_loss import encode_question

    tokenizer = load.load_tokenizer(base_model)
    lines = too_long = longest = 0
    first = ""
    for path in shards:
        for value, question in read_lines(path):
            length = sum(map(len, encode_question(tokenizer, question)))
            lines, longest = lines + 1, max(longest, length)
            if length > max_length:
                too_long, first = too_long + 1, first or value["id"]
    if too_long:
        raise cli.CheckFailed(
            f"{too_long:,} of {lines:,} conversations have more than --max-length {max_length} tokens of {base_model} "
            f"(first: {first}; longest: {longest}); raise it here and in training, shorten the template "
            f"or use --drop-columns"
        )
    cli.say(f"tokens of {base_model}: at most {longest} per conversation, {max_length} allowed")


class SeenTexts:
    """A set of texts that takes no memory: a table on disk, which goes when the process does."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("CREATE TABLE seen (text TEXT PRIMARY KEY) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def add(self, text: str) -> bool:
        """Add a text and return whether it is new."""
        return self._table.execute("INSERT OR IGNORE INTO seen VALUES (?)", (text,)).rowcount == 1


class ShardWriter:
    """Writes one split's lines to shards of at most `size` rows; the names hold the count, so they come last."""

    def __init__(self, folder: Path, split: str, size: int) -> None:
        self.folder, self.split, self.size = folder, split, size
        self.rows = 0
        self._paths: list[Path] = []
        self._handle: BinaryIO | None = None

    def write(self, lines: list[bytes]) -> None:
        """Add some lines."""
        while lines:
            room = self.size - self.rows % self.size
            if room == self.size:
                self.close()
                self._paths.append(self.folder / f"{self.split}-{len(self._paths):05d}.part")
                self._handle = open(self._paths[-1], "wb")  # noqa: SIM115
            assert self._handle, "opened with the first line"
            self._handle.write(b"".join(lines[:room]))
            self.rows += len(lines[:room])
            lines = lines[room:]

    def close(self) -> None:
        """Close the open shard, if any."""
        if self._handle:
            self._handle.close()

    def finish(self) -> dict[str, int]:
        """Give the shards their final names and return the rows of each."""
        from linklab.tasks.jsonl import shard_name

        self.close()
        named = {}
        for i, path in enumerate(self._paths):
            name = shard_name(self.split, i, len(self._paths))
            path.rename(self.folder / name)
            named[name] = min(self.size, self.rows - i * self.size)
        return named


def write_card(
    task: Task, features: CardFeatures, names: dict[str, dict[str, int]], rows: dict[str, int], csv_path: Path
) -> str:
    """Return the data card. Its `configs` name the data files, so whatever else lies in the folder is not loaded."""
    from linklab.reports.markdown import code, escape, fence, row

    lines = ["---", *features.lines(), "configs:", "- config_name: default", "  data_files:"]
    for split, shards in names.items():
        if shards:  # load_dataset fails on a split without rows
            lines += [f"  - split: {split}", "    path:", *(f"    - {name}" for name in shards)]
    targets = ", ".join(f"{code(t.name)} ({t.kind}{escape(t.unit and ', ' + t.unit)})" for t in task.targets)
    shown = ", ".join(map(code, task.template.columns))
    form = " as a JSON object" if task.answer_format == "json" else ""
    holds = f"Each line holds one row: the prompt shows {shown}; the answer holds {targets}{form}."
    if task.ask == "choices":
        unit = f"{task.answer_unit:g} {task.answer_column.unit}".strip()
        holds = (
            f"Each row is a conversation per choice of {code(task.choice_target.name)}, one per line: the prompt shows "
            f"{shown}; the answer is what this choice is worth, {code(task.answer_column.name)} in units of "
            f"{escape(unit)}."
        )
    lines += [
        "task_categories:", "- text-generation", "---", "", f"# Conversations made from {escape(csv_path.name)}", "",
        holds, "",
        "| split | rows |", "|---|---|", *(row((split, f"{n:,}")) for split, n in rows.items()), "",
        "Rows of one group (a site, or equal prompts where there are no groups) are never on two sides.", "",
        "Prompt template:", "", fence(task.template.text), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), manifest.skip_finished(run, __file__), argv)


if __name__ == "__main__":
    raise SystemExit(main())
