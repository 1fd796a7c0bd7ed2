"""Write a table as conversations, block by block: shards of each split, and cells.csv with the cells of each row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from linklab import cli, files
from linklab.parallel import map_in_order, usable_cores
from linklab.tables.csv_stream import BLOCK_BYTES, Block
from linklab.tables.table import Table
from linklab.tasks import row_cells
from linklab.tasks.examples import ExampleMaker
from linklab.tasks.jsonl import CardFeatures, Converted, convert_block, shard_name
from linklab.tasks.split_count import SplitCount
from linklab.tasks.splits import SPLITS, SplitRule, last_chosen, rank_key
from linklab.tasks.task import Task

LastRow = tuple[tuple[float, str], int]  # rank key and number of a row, see `splits.last_chosen`


class Written(NamedTuple):
    """The result of writing the rows: shards with their row counts, and what was counted while writing."""

    names: dict[str, dict[str, int]]  # split -> shard -> rows
    features: CardFeatures
    split_count: SplitCount
    copies: int  # left out of validation and test


def write_rows(
    folder: Path, table: Table, task: Task, last: LastRow | None, *, shard_size: int, workers: int | None
) -> Written:
    """Write the conversations of every split and the cells, block by block; `last` is the last row of --max-rows."""
    writers = {split: ShardWriter(folder, split, shard_size) for split in SPLITS}
    features, ids, count = CardFeatures(task), SeenTexts(), SplitCount(task, SeenTexts().add)
    copies = 0
    with open(folder / row_cells.CELLS_FILE, "w", encoding="utf-8", newline="") as cells:
        cells.write(row_cells.csv_lines([["id", *(column.name for column in row_cells.shown_columns(task))]]))
        for converted in convert(table, task, last=last, workers=workers):
            features.merge(converted.features)
            cells.write(converted.cells)
            count.merge(converted.split_count)
            lines = {"train": converted.train, "validation": [], "test": []}
            for split, row_id, line in converted.others:
                if ids.add(row_id):  # training keeps copies (oversampling); scoring needs each row once
                    lines[split].append(line)
                else:
                    copies += 1
                    count.rows[split] -= 1
            for split, writer in writers.items():
                writer.write(lines[split])
    names = {split: writer.finish() for split, writer in writers.items()}
    return Written(names, features, count, copies)


def convert(table: Table, task: Task, *, last: LastRow | None, workers: int | None) -> Iterator[Converted]:
    """Yield the converted rows block by block, in the table's order, in `workers` processes (default: all cores)."""
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
    """Return the rank key and number of the last of the `max_rows` rows with the lowest rank (by their id)."""
    return last_chosen((row_id for row_id, _ in named_rows(table, task)), max_rows)


def choose_rule(table: Table, task: Task, last: LastRow | None, seed: int) -> SplitRule:
    """Return the split rule of the rows that --max-rows chooses; reads only as many rows as this needs."""
    rows = enumerate(named_rows(table, task), start=1)
    chosen = (cells for number, (row_id, cells) in rows if last is None or (rank_key(row_id), number) <= last)
    return ExampleMaker(task, seed=seed).choose_rule(chosen)


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


class SeenTexts:
    """A set of texts kept on disk, not in memory; the file is deleted when the process ends."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("CREATE TABLE seen (text TEXT PRIMARY KEY) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def add(self, text: str) -> bool:
        """Add a text and return whether it is new."""
        return self._table.execute("INSERT OR IGNORE INTO seen VALUES (?)", (text,)).rowcount == 1


class ShardWriter:
    """Writes one split's lines to shards of at most `size` rows; `finish` names them, as names hold the shard count."""

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
        self.close()
        named = {}
        for i, path in enumerate(self._paths):
            name = shard_name(self.split, i, len(self._paths))
            path.rename(self.folder / name)
            named[name] = min(self.size, self.rows - i * self.size)
        return named
