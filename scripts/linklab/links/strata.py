"""Balance a stream of rows over strata: how often each row is written depends only on counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linklab.cli import UserError
from linklab.tables.schema import Column, Schema

QUANTILES = 4
MOST_CLASSES = 12  # a number column with more distinct values than this is cut at its quartiles


class Strata:
    """The strata seen in a pilot of rows: one per combination of classes or quartiles that occurs there."""

    def __init__(self, columns: list[Column], pilot: dict[str, np.ndarray]) -> None:
        self.columns = columns
        self.edges = {c.name: self._edges(c, pilot[c.name]) for c in columns}
        self.keys, self.counts = np.unique(self._parts(pilot), axis=0, return_counts=True)

    @staticmethod
    def _edges(column: Column, values: np.ndarray) -> np.ndarray | None:
        if column.choices or column.class_target or len(np.unique(values)) <= MOST_CLASSES:
            return None
        return np.unique(np.quantile(values, np.arange(1, QUANTILES) / QUANTILES))

    def _parts(self, values: dict[str, np.ndarray]) -> np.ndarray:
        parts = []
        for column in self.columns:
            edges, array = self.edges[column.name], values[column.name]
            # Thousandths, so that classes such as .5 keep their value in an integer key.
            parts.append(np.searchsorted(edges, array, "right") if edges is not None else np.rint(array * 1000.0))
        return np.stack(parts, axis=1).astype(np.int64)

    def codes(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Stratum of every row (n_rows,), -1 for a stratum that the pilot did not have."""
        both, inverse = np.unique(np.concatenate([self.keys, self._parts(values)]), axis=0, return_inverse=True)
        code_of = np.full(len(both), -1)
        inverse = inverse.ravel()
        code_of[inverse[: len(self.keys)]] = np.arange(len(self.keys))
        return code_of[inverse[len(self.keys) :]]

    def name(self, code: int) -> str:
        """A stratum in words: `regulatory_domain=ETSI, link_distance_m=quarter 3 of 4`."""
        words = []
        for column, part in zip(self.columns, self.keys[code], strict=True):
            edges = self.edges[column.name]
            if edges is not None:
                text = f"quarter {part + 1} of {len(edges) + 1}"
            else:
                text = column.choices[part // 1000] if column.choices else f"{part / 1000:g}"
            words.append(f"{column.name}={text}")
        return ", ".join(words)


def ranks_within(codes: np.ndarray, n_strata: int, seen: np.ndarray) -> np.ndarray:
    """Rank of every row within its stratum, after the `seen` (n_strata,) rows before; -1 for code -1."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    first = np.searchsorted(ordered, np.arange(-1, n_strata))
    ranks = np.empty(len(codes), np.int64)
    ranks[order] = np.arange(len(codes)) - first[ordered + 1]
    return np.where(codes >= 0, ranks + np.append(seen, 0)[codes], -1)


class StratumQuotas:
    """How often each row of the stream is written. Call `copies` block by block, in order."""

    def __init__(self, balance: str, strata: Strata, n_rows: int) -> None:
        self.balance, self.strata = balance, strata
        counts = strata.counts
        self.seen = np.zeros(len(counts), np.int64)
        self.quota = {
            "none": counts,
            "oversample": np.full(len(counts), counts.max()),
            "undersample": np.full(len(counts), counts.min()),
            "generate": n_rows // len(counts) + (np.arange(len(counts)) < n_rows % len(counts)),
        }[balance]
        self.total = int(self.quota.sum())

    def copies(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Times each row of the next block is written (n_rows,)."""
        codes = self.strata.codes(values)
        ranks = ranks_within(codes, len(self.quota), self.seen)
        known = codes >= 0
        self.seen += np.bincount(codes[known], minlength=len(self.quota))
        quota = np.append(self.quota, 0)[codes]
        if self.balance != "oversample":
            return (known & (ranks < quota)).astype(np.int64)
        size = np.append(self.strata.counts, 1)[codes]
        return quota // size + (ranks < quota % size)

    @property
    def done(self) -> bool:
        """Whether every stratum has enough rows."""
        need = self.strata.counts if self.balance == "oversample" else self.quota
        return bool(np.all(self.seen >= need))

    def unfilled(self) -> str:
        """The emptiest stratum that still lacks rows, in words."""
        code = int(np.argmin(np.minimum(self.seen / self.quota, 1)))
        return f"{self.strata.name(code)} ({self.seen[code]:,} of {self.quota[code]:,})"


def check_columns(schema: Schema, names: Sequence[str]) -> list[Column]:
    """The columns of these names; a UserError lists the columns that rows can be stratified by."""
    columns = [schema[name] for name in names]
    allowed = [c.name for c in schema.columns if c.role in ("input", "target", "hidden") and c.kind[:4] != "list"]
    for column in columns:
        if column.name not in allowed:
            raise UserError(f"--stratify-by {column.name}: choose from {', '.join(allowed)}")
    return columns
