"""The endless stream of link rows of a seed, block by block, from one process or several: always the same rows."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

IN_FLIGHT_PER_WORKER = 2  # finished blocks that may wait for the reader: bounds memory


class Recipe(NamedTuple):
    """What the rows of a stream depend on, besides their number."""

    seed: int
    preset: str = "standard"
    domain_mix: tuple[tuple[str, float], ...] | None = None
    min_gap: float = 0.02


class RowBlock(NamedTuple):
    """Rows of one block: their text with empty ids, the byte each starts at, and the columns asked for."""

    text: bytes
    starts: np.ndarray
    columns: dict[str, np.ndarray]


def make_rows(recipe: Recipe, block: int, with_text: bool, column_names: tuple[str, ...]) -> RowBlock:
    """Draw one block (in whatever process) and format it unless only columns are wanted."""
    from linklab.data.link_text import format_rows
    from linklab.radio.labels import make_block

    mix = dict(recipe.domain_mix) if recipe.domain_mix else None
    columns = make_block(recipe.seed, block, recipe.preset, mix, recipe.min_gap)
    text, starts = format_rows(columns) if with_text else (b"", np.zeros(len(columns["count"]), np.int64))
    return RowBlock(text, starts, {name: columns[name] for name in column_names})


def _end_with_parent(parent: int) -> None:
    """Make a worker end when its parent was killed, instead of waiting for work for ever."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def stream_blocks(
    recipe: Recipe, workers: int, *, with_text: bool = True, column_names: tuple[str, ...] = ()
) -> Iterator[RowBlock]:
    """Yield the blocks 0, 1, 2, … of a recipe in order, without end; close the iterator to stop the workers."""
    if workers <= 1:
        block = 0
        while True:
            yield make_rows(recipe, block, with_text, column_names)
            block += 1
    with ProcessPoolExecutor(workers, initializer=_end_with_parent, initargs=(os.getpid(),)) as pool:
        waiting = deque()
        block = 0
        try:
            while True:
                while len(waiting) < workers * IN_FLIGHT_PER_WORKER:
                    waiting.append(pool.submit(make_rows, recipe, block, with_text, column_names))
                    block += 1
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
