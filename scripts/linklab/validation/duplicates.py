"""Find repeated keys among any number of rows, and a random sample of the rows, in constant memory.

Keys are 64-bit hashes; above SPILL_ROWS they are kept in N_SHARES files on disk.

Two different texts share a hash with probability n^2 / 2^65: about 3 in a million at ten million rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xxhash

SPILL_ROWS = 1 << 17  # entries kept in memory before they are written to disk (5 MB)
N_SHARES = 16

ENTRY = np.dtype(
    [("key", "u8"), ("other", "u8"), ("line", "i8"), ("offset", "i8"), ("end", "i8")]
)  # offset and end: bytes


def hash_texts(texts: Iterable[bytes]) -> np.ndarray:
    """Return the 64-bit hash of each text, the same on every machine and in every run."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, texts), np.uint64)


def entries(
    keys: np.ndarray, others: np.ndarray | int, lines: np.ndarray, offsets: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Pack one entry per row."""
    packed = np.empty(len(keys), ENTRY)
    for name, values in zip(ENTRY.names or (), (keys, others, lines, offsets, ends), strict=True):
        packed[name] = values
    return packed


class KeyStore:
    """Stores entries; then returns those with the key of an earlier entry, or those with the smallest keys."""

    def __init__(self) -> None:
        self._held: list[Any] = []  # arrays; Any because NumPy does not declare them as buffers
        self._n_held = 0
        self._shares: list = []

    def add(self, packed: np.ndarray) -> None:
        """Store the entries of one block."""
        self._held.append(packed)
        self._n_held += len(packed)
        if self._n_held >= SPILL_ROWS:
            self._spill()

    def _spill(self) -> None:
        if not self._shares:
            self._shares = [tempfile.TemporaryFile(prefix="linklab-keys-") for _ in range(N_SHARES)]  # noqa: SIM115
        packed = np.frombuffer(b"".join(self._held), ENTRY)  # as bytes: numpy would join field by field
        share = (packed["key"] % np.uint64(N_SHARES)).astype(np.uint8)
        packed = packed.take(np.argsort(share, kind="stable"))  # [] would copy field by field
        ends = np.cumsum(np.bincount(share, minlength=N_SHARES))
        for handle, part in zip(self._shares, np.split(packed, ends[:-1]), strict=True):
            handle.write(part)
        self._held, self._n_held = [], 0

    def repeats(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield pairs of arrays: entries with the key of an earlier line, and the first entry of that key.

        They come share by share, sorted by line within a share.
        """
        for part in self._parts():
            yield from _repeats_of(part)

    def smallest(self, n: int) -> np.ndarray:
        """Return the entries of the n smallest keys: the same for any block size; a larger n only adds entries."""
        found = np.concatenate([part[np.argsort(part["key"], kind="stable")[:n]] for part in self._parts()])
        return found[np.argsort(found["key"], kind="stable")[:n]]

    def _parts(self) -> Iterator[np.ndarray]:
        if not self._shares:
            yield np.concatenate(self._held) if self._held else np.empty(0, ENTRY)
            return
        self._spill()
        for handle in self._shares:
            handle.seek(0)
            yield np.frombuffer(handle.read(), ENTRY)

    def close(self) -> None:
        """Free the disk space."""
        for handle in self._shares:
            handle.close()


def _repeats_of(packed: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    keys = np.sort(packed["key"])
    if not (keys[1:] == keys[:-1]).any():  # the usual case: nothing to sort
        return
    packed = packed[np.lexsort((packed["line"], packed["key"]))]
    again = np.zeros(len(packed), bool)
    again[1:] = packed["key"][1:] == packed["key"][:-1]
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(packed))))
    later, earlier = packed[again], packed[first[again]]
    order = np.argsort(later["line"])
    yield later[order], earlier[order]
