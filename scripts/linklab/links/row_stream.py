"""The endless stream of link rows of a seed, block by block, from one process or several: always the same rows."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from functools import partial
from typing import NamedTuple

import numpy as np

from linklab.parallel import map_in_order


class Recipe(NamedTuple):
    """The settings that determine the rows of a stream."""

    seed: int
    preset: str = "standard"
    domain_mix: tuple[tuple[str, float], ...] | None = None
    min_gap: float = 0.02


class RowBlock(NamedTuple):
    """Rows of one block: their text with placeholder ids, the first byte of each row, and the requested columns."""

    text: bytes
    starts: np.ndarray
    columns: dict[str, np.ndarray]


def make_rows(recipe: Recipe, block: int, column_names: tuple[str, ...]) -> RowBlock:
    """Draw and format one block, in any process."""
    from linklab.links.row_writer import format_rows
    from linklab.radio.labels import make_block

    mix = dict(recipe.domain_mix) if recipe.domain_mix else None
    columns = make_block(recipe.seed, block, recipe.preset, mix, recipe.min_gap)
    return RowBlock(*format_rows(columns), {name: columns[name] for name in column_names})


def stream_blocks(
    recipe: Recipe, workers: int, *, column_names: tuple[str, ...] = ()
) -> Generator[RowBlock, None, None]:
    """Yield the blocks 0, 1, 2, … of a recipe in order, without end; close the iterator to stop the workers."""
    return map_in_order(partial(make_rows, recipe, column_names=column_names), itertools.count(), workers)
