"""Write one set of link rows: links.csv, links.zip, README.md and manifest.json, all at once or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

import numpy as np

from linklab.cli import Progress, UserError, describe_os_error
from linklab.links import strata
from linklab.links.data_card import card_text
from linklab.links.links import LINK_SCHEMA
from linklab.links.row_stream import Recipe, stream_blocks
from linklab.links.row_writer import HEADER, ID_DIGITS, put_ids
from linklab.manifest import staged_folder, write_manifest
from linklab.parallel import usable_cores

CSV_NAME, ZIP_NAME, CARD_NAME = "links.csv", "links.zip", "README.md"
HARDNESS_ROWS = 5_000
MOST_ROWS_PER_WANTED = 200  # `--balance generate` stops after this many drawn rows per wanted row
ROWS_PER_BLOCK = 1_500  # approximate; only limits the number of processes
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_ZIP_LEVEL = 1  # level 6 is a fifth smaller and five times as slow


def plain_rows(recipe: Recipe, n_rows: int, workers: int) -> Generator[tuple[bytes, np.ndarray], None, None]:
    """Yield (text, first byte of each row) of rows 1..n_rows of the stream, block by block."""
    first = 1
    with closing(stream_blocks(recipe, workers)) as blocks:
        for block in blocks:
            text, starts = put_ids(block.text, block.starts, first), block.starts
            left = n_rows - first + 1
            if len(starts) > left:
                text, starts = text[: starts[left]], starts[:left]
            yield text, starts
            first += len(starts)
            if first > n_rows:
                return


def pilot_columns(recipe: Recipe, n_rows: int, workers: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the columns `names` of rows 1..n_rows of the stream."""
    parts, rows = [], 0
    with closing(stream_blocks(recipe, workers, column_names=names)) as blocks:
        for block in blocks:
            parts.append(block.columns)
            rows += len(block.starts)
            if rows >= n_rows:
                break
    return {name: np.concatenate([part[name] for part in parts])[:n_rows] for name in names}


def balanced_rows(
    recipe: Recipe, n_rows: int, workers: int, plan: strata.StratumQuotas
) -> Generator[tuple[bytes, np.ndarray], None, None]:
    """Yield (text, first byte of each row) of a plan's rows; copies follow each other and keep their scenario_id."""
    names = tuple(column.name for column in plan.strata.columns)
    first = 1
    limit = n_rows if plan.balance != "generate" else n_rows * MOST_ROWS_PER_WANTED
    with closing(stream_blocks(recipe, workers, column_names=names)) as blocks:
        for block in blocks:
            take = min(len(block.starts), limit - first + 1)
            copies = np.zeros(len(block.starts), np.int64)
            copies[:take] = plan.copies({name: values[:take] for name, values in block.columns.items()})
            text = put_ids(block.text, block.starts, first)
            ends = np.append(block.starts[1:], len(text))
            lines = [text[block.starts[i] : ends[i]] * copies[i] for i in np.flatnonzero(copies)]
            sizes = np.repeat(ends - block.starts, copies)
            yield b"".join(lines), np.cumsum(sizes) - sizes
            first += take
            if plan.done:
                return
            if first > limit:
                raise UserError(
                    f"--balance generate: {limit:,} rows were drawn, but the stratum {plan.unfilled()} is not full; "
                    f"choose fewer --stratify-by columns or --balance oversample"
                )


class _ChunkedWriter:
    """Write rows to the CSV and the ZIP member, hashing every chunk of `chunk_rows` rows."""

    def __init__(self, handles: Sequence[IO[bytes]], chunk_rows: int) -> None:
        self.handles, self.chunk_rows = handles, chunk_rows
        self.chunks: list[dict] = []
        self.rows = 0
        self._hash, self._in_chunk = hashlib.sha256(), 0

    def write(self, text: bytes, starts: np.ndarray) -> None:
        for handle in self.handles:
            handle.write(text)
        at, n = 0, len(starts)
        while at < n:
            stop = min(n, at + self.chunk_rows - self._in_chunk)
            self._hash.update(text[starts[at] : starts[stop] if stop < n else len(text)])
            self._in_chunk += stop - at
            at = stop
            if self._in_chunk == self.chunk_rows:
                self._close_chunk()
        self.rows += n

    def _close_chunk(self) -> None:
        first = self.chunks[-1]["first_row"] + self.chunks[-1]["rows"] if self.chunks else 1
        self.chunks.append({"first_row": first, "rows": self._in_chunk, "sha256": self._hash.hexdigest()})
        self._hash, self._in_chunk = hashlib.sha256(), 0

    def finish(self) -> None:
        if self._in_chunk:
            self._close_chunk()


def read_head(csv_path: Path, n_rows: int) -> dict[str, list]:
    """The first distinct rows of a links.csv as {column: values}, lists of numbers read from JSON."""
    lists = [column for column in LINK_SCHEMA.columns if column.kind.startswith("list")]
    rows: dict[str, dict[str, str]] = {}
    with open(csv_path, encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            rows.setdefault(row["scenario_id"], row)
            if len(rows) == n_rows:
                break
    columns: dict[str, list] = {name: [row[name] for row in rows.values()] for name in LINK_SCHEMA.names}
    return columns | {c.name: json.loads(f"[{','.join(columns[c.name])}]") for c in lists}


def write_set(
    out_dir: str | os.PathLike,
    *,
    script: str,
    argv: Sequence[str],
    recipe: Recipe,
    n_rows: int,
    chunk_rows: int,
    workers: int | None = None,
    stratify_by: Sequence[str] = (),
    balance: str = "none",
    force: bool = False,
) -> tuple[int, dict]:
    """Generate a set into `out_dir`; returns the rows written and the hardness figures of the data card."""
    from linklab.links.pickers import hardness

    if balance != "none" and not stratify_by:
        raise UserError(f"--balance {balance} needs --stratify-by COLUMN")
    if n_rows >= 10**ID_DIGITS:
        raise UserError(f"--n-samples {n_rows}: at most {10**ID_DIGITS - 1} rows are possible")
    workers = min(workers or usable_cores(), -(-n_rows // ROWS_PER_BLOCK))
    columns = strata.check_columns(LINK_SCHEMA, stratify_by)
    with staged_folder(out_dir, script=script, force=force) as stage:
        extra: dict = {"preset": recipe.preset, "domain_mix": dict(recipe.domain_mix or ()), "min_gap": recipe.min_gap}
        if columns:
            pilot = pilot_columns(recipe, n_rows, workers, tuple(c.name for c in columns))
            plan = strata.StratumQuotas(balance, strata.Strata(columns, pilot), n_rows)
            rows, total = balanced_rows(recipe, n_rows, workers, plan), plan.total
            extra["strata"] = {
                "columns": [c.name for c in columns],
                "balance": balance,
                "rows": {plan.strata.name(i): int(n) for i, n in enumerate(plan.quota)},
            }
        else:
            rows, total = plain_rows(recipe, n_rows, workers), n_rows
        try:
            writer = _write_rows(stage, rows, total, chunk_rows)
        except OSError as error:
            raise UserError(describe_os_error(error, out_dir)) from error
        figures = hardness(read_head(stage / CSV_NAME, HARDNESS_ROWS), recipe.preset, min_gap=recipe.min_gap)
        extra |= {"hardness": figures, "chunk_rows": chunk_rows, "chunks": writer.chunks}
        (stage / CARD_NAME).write_text(card_text(recipe, writer.rows, figures, extra.get("strata")), encoding="utf-8")
        outputs = {stage / CSV_NAME: writer.rows, stage / ZIP_NAME: writer.rows, stage / CARD_NAME: None}
        write_manifest(stage, script=script, argv=argv, seed=recipe.seed, inputs={}, outputs=outputs, extra=extra)
    return writer.rows, figures


def _write_rows(stage: Path, rows: Generator, total: int, chunk_rows: int) -> _ChunkedWriter:
    progress = Progress("generate", total)
    info = zipfile.ZipInfo(CSV_NAME, _ZIP_DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    info._compresslevel = _ZIP_LEVEL  # type: ignore[attr-defined]  # a member given as ZipInfo ignores the archive's level
    with (
        closing(rows),
        open(stage / CSV_NAME, "wb", buffering=io.DEFAULT_BUFFER_SIZE * 16) as handle,
        zipfile.ZipFile(stage / ZIP_NAME, "w") as archive,
        archive.open(info, "w", force_zip64=True) as member,
    ):
        writer = _ChunkedWriter((handle, member), chunk_rows)
        for each in writer.handles:
            each.write(HEADER)
        for text, starts in rows:
            writer.write(text, starts)
            progress.at(writer.rows)
        writer.finish()
    return writer
