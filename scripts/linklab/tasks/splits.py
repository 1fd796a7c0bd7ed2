"""The split: a row's side depends only on the text of its group, not on the order or number of rows."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import heapq
from collections.abc import Collection, Iterable

from linklab.cli import UserError

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """How rows are divided into splits; travels with the task to the converted folder and to the model."""

    seed: int = 0
    fractions: tuple[float, float, float] = FRACTIONS

    def to_dict(self) -> dict:
        """Return the rule as JSON-ready values."""
        return dataclasses.asdict(self) | {"fractions": list(self.fractions)}

    @classmethod
    def from_dict(cls, value: object) -> SplitRule:
        """Return the rule from the output of `to_dict`; raises a UserError for anything else."""
        if (
            isinstance(value, dict)
            and isinstance(seed := value.get("seed"), int)
            and isinstance(fractions := value.get("fractions"), list)
            and len(fractions) == 3
            and all(isinstance(share, int | float) and 0 <= share <= 1 for share in fractions)
        ):
            return cls(seed, tuple(fractions))
        raise UserError("the task's 'split' needs a seed and three fractions")


def choose_rule(seed: int, groups: Iterable[str], wanted: Collection[str] = SPLITS) -> SplitRule:
    """Return the split rule of `groups` for a seed: FRACTIONS, unless a `wanted` side would have no group.

    In that case, if there are enough groups, the fractions are set between the groups' hashes, so that each side gets
    its share, at least one group. Reading stops when every side has a group, so a large table costs nothing.
    """
    empty, hashes = set(wanted), set()
    for group in groups:
        side = split_of(group, seed)
        empty.discard(side if side in wanted else "train")
        if not empty:
            return SplitRule(seed)
        hashes.add(_split_hash(group, seed))
    ordered = sorted(hashes)
    if len(ordered) < len(wanted):
        return SplitRule(seed)
    n_validation, n_test = (
        max(1, round(share * len(ordered))) if side in wanted else 0
        for side, share in zip(SPLITS[1:], FRACTIONS[1:], strict=True)
    )

    def cut(n: int) -> float:
        return sum(ordered[n - 1 : n + 1]) / 2 if n < len(ordered) else 1.0

    train, test = cut(len(ordered) - n_validation - n_test), 1.0 - cut(len(ordered) - n_test)
    return SplitRule(seed, (train, max(0.0, 1.0 - test - train), test))


def unit_hash(text: str) -> float:
    """Return a number in [0, 1) that depends only on `text`: the first 56 bits of its SHA-256 as a fraction."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:7]) / 2**56


@functools.lru_cache(maxsize=1024)  # rows of one site follow each other
def split_of(group: str, seed: int = 0, fractions: tuple[float, float, float] = FRACTIONS) -> str:
    """Return the split of every row of `group`: "train", "validation" or "test" at these fractions.

    Another `seed` gives another, independent split.
    """
    at = _split_hash(group, seed)
    return "train" if at < fractions[0] else "validation" if at < fractions[0] + fractions[1] else "test"


def _split_hash(group: str, seed: int) -> float:
    return unit_hash(f"split:{seed}:{group}")


def rank_key(row_id: str) -> tuple[float, str]:
    """Return the sort key of a row; --max-rows takes the rows that are first in this order.

    The first n rows are part of the first n + 1, and every script takes the same n.
    """
    return unit_hash(f"rank:{row_id}"), row_id


def last_chosen(row_ids: Iterable[str], max_rows: int) -> tuple[tuple[float, str], int] | None:
    """Return (rank key, row number from 1) of the last row that `--max-rows` takes; None for no rows.

    A row is taken if its own pair is not above this one, so a second pass over a file can filter row by row.
    """
    pairs = ((rank_key(row_id), number) for number, row_id in enumerate(row_ids, start=1))
    return max(heapq.nsmallest(max_rows, pairs), default=None)
