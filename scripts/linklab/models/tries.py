"""Tries: many token sequences in one tree, with shared prefixes stored once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass
class Trie:
    """The distinct prefixes of a set of token sequences, one node each, parents before children."""

    tokens: list[int]  # the token of each node
    parents: list[int]  # the parent of each node, -1 for a first token
    depths: list[int]  # the depth of each node, 1 for a first token
    leaves: list[list[int]]  # for each answer the nodes of its tokens, in order


def build_trie(answers: Sequence[Sequence[int]]) -> Trie:
    """Return the trie of token sequences: [[5, 1], [5, 7]] -> nodes 5, 1, 7."""
    trie = Trie([], [], [], [])
    known: dict[tuple[int, int], int] = {}
    for answer in answers:
        path: list[int] = []
        parent = -1
        for token in answer:
            node = known.get((parent, token))
            if node is None:
                node = known[parent, token] = len(trie.tokens)
                trie.tokens.append(token)
                trie.parents.append(parent)
                trie.depths.append(len(path) + 1)
            path.append(node)
            parent = node
        trie.leaves.append(path)
    return trie


def count_shared(answers: Sequence[Sequence[int]]) -> int:
    """Return the length of the common prefix, at least one token shorter than any: [[5, 1], [5, 7]] -> 1."""
    most = min(map(len, answers)) - 1
    return next((i for i in range(most) if len({answer[i] for answer in answers}) > 1), most)


def is_chain(trie: Trie) -> bool:
    """Say whether the trie has no branches: every node is the child of the node before it."""
    return trie.parents == list(range(-1, len(trie.parents) - 1))


def seen_nodes(trie: Trie) -> Tensor:
    """Return the attention mask (nodes, nodes), True where a node sees another: itself and its ancestors."""
    import numpy as np
    import torch

    if is_chain(trie):
        return torch.from_numpy(np.tri(len(trie.tokens), dtype=bool))
    seen = np.eye(len(trie.tokens), dtype=bool)
    for node, parent in enumerate(trie.parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return torch.from_numpy(seen)


def written_scores(answers: Sequence[Sequence[int]], token_scores: Sequence[Sequence[float]]) -> list[float]:
    """Return the natural log-probability of writing each answer when only these answers are allowed.

    `token_scores` holds the log-probability of every token of every answer. At each node of the trie the children's
    probabilities are divided by their sum, as in constrained decoding: a token with no alternative costs nothing, short
    answers have no advantage, and the probabilities of all answers sum to 1.
    """
    trie = build_trie(answers)
    scores: dict[int, float] = {}
    for path, row in zip(trie.leaves, token_scores, strict=True):
        scores.update(zip(path, row, strict=True))
    children: dict[int, list[float]] = {}
    for node, parent in enumerate(trie.parents):
        children.setdefault(parent, []).append(scores[node])
    sums = {parent: log_sum(values) for parent, values in children.items()}
    return [sum(scores[node] - sums[trie.parents[node]] for node in path) for path in trie.leaves]


def log_sum(values: Sequence[float]) -> float:
    """Return log(sum(exp(values)))."""
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def inner_part(trie: Trie) -> tuple[Trie, dict[int, int]]:
    """Return the trie without its leaf nodes, whose states are not needed, and {old node: new node} for the others."""
    kept = sorted({parent for parent in trie.parents if parent >= 0})
    place = {-1: -1} | {node: i for i, node in enumerate(kept)}
    parts = [trie.tokens[node] for node in kept], [place[trie.parents[node]] for node in kept]
    return Trie(*parts, [trie.depths[node] for node in kept], []), place


def needs_end(answers: Sequence[Sequence[int]]) -> bool:
    """Say whether one answer is a prefix of another, so that only the next token tells them apart."""
    known = {tuple(answer) for answer in answers}
    return any(tuple(answer[:n]) in known for answer in answers for n in range(1, len(answer)))
