"""Batches without padding, in which tokens that rows have in common are read once.

Rows of links have 60 to 300 tokens, so a batch of 8 is 30 % padding, and a CPU spends time on every padded token. In a
packed batch the linear layers get real tokens only, and attention runs block by block. The rows of a block form a tree:
a prefix of several rows is in it once (a third of 16 short questions), and a token sees itself and its ancestors. A GPU
keeps the padded batch: there a single launch for all rows saves more time than the padding costs.

A row may have branches, one per choice: each sees the header, which all share, and itself. `branches` says where each
token belongs: 0 for the header, 1, 2, ... for the branches.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from linklab.models.tries import Trie, build_trie, is_chain, seen_nodes

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = "rows_sdpa"
BLOCK = 384  # most tokens in a block of rows, for which attention is one product; a longer row is a block alone


def use_row_attention(model: Any) -> None:
    """Let `model` take `packed_rows`, with attention only within a row; calls without it do not change."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)


class PackedRows:
    """Blocks of rows, one after the other in one sequence: each block's length and attention mask."""

    def __init__(self, blocks: list[Trie]) -> None:
        self.blocks = blocks
        self.lengths = [len(block.tokens) for block in blocks]
        self.masks = functools.cache(self._masks)  # all layers of one kind share them
        self.biases = functools.cache(self._biases)

    def _masks(self, window: int | None) -> list[Tensor | None]:
        """Return each block's mask (tokens, tokens), True where seen; None if every token sees all before it."""
        return [
            None if is_chain(block) and (window is None or len(block.tokens) <= window) else seen_within(block, window)
            for block in self.blocks
        ]

    def _biases(self, window: int | None) -> list[Tensor]:
        """Return each block's bias for attention scores (tokens, tokens): 0 where a token is seen, else -infinity."""
        import torch

        masks = (seen_within(block, window) for block in self.blocks)
        return [torch.zeros(mask.shape).masked_fill_(~mask, -math.inf) for mask in masks]


def seen_within(trie: Trie, window: int | None) -> Tensor:
    """Return `seen_nodes` of a block (tokens, tokens), limited to a sliding `window`."""
    import torch

    seen = seen_nodes(trie)
    if window is None:
        return seen
    depths = torch.tensor(trie.depths)
    return seen & (depths[:, None] - depths < window)


def seen_tokens(branches: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """Return (rows, tokens, tokens), True where a token (second axis) sees another (third axis).

    It sees the header and its own branch up to itself, within a sliding `window`. `branches` and `positions` are
    (rows, tokens).
    """
    same = branches[:, None, :] == branches[:, :, None]
    seen = (same | (branches[:, None, :] == 0)).tril()
    return seen if window is None else seen & (positions[:, :, None] - positions[:, None, :] < window)


def padded_masks(
    branches: Tensor, positions: Tensor, attention_mask: Tensor | None, window: int | None
) -> dict[str, Tensor]:
    """Return the masks (rows, 1, tokens, tokens) of a padded batch for both kinds of layers; padding sees itself."""
    import torch

    masks = {}
    itself = torch.eye(branches.shape[1], dtype=torch.bool, device=branches.device)
    for kind, reach in (("full_attention", None), ("sliding_attention", window)):
        seen = seen_tokens(branches, positions, reach)
        if attention_mask is not None:
            seen = seen & attention_mask.bool()[:, None, :]
        masks[kind] = (seen | itself)[:, None]
    return masks


def pack(
    input_ids: Tensor, attention_mask: Tensor, branches: Tensor | None = None
) -> tuple[Tensor, Tensor, PackedRows, Tensor]:
    """Return (input_ids (1, tokens), position_ids (1, tokens), rows, places) without padding.

    `places` (all real tokens) is the index of each token in the sequence, row by row. The arguments are (rows, tokens);
    padding may be on either side.
    """
    import torch

    real = attention_mask.bool()
    branches = torch.zeros_like(input_ids) if branches is None else branches
    blocks: list[list[tuple[list[int], list[int]]]] = []  # rows as (tokens, branches)
    room = 0
    for tokens, own, mask in zip(input_ids, branches, real, strict=True):
        row = tokens[mask].tolist(), own[mask].tolist()
        if len(row[0]) > room:
            blocks.append([])
            room = BLOCK
        room -= len(row[0])
        blocks[-1].append(row)
    tries, places, start = [], [], 0
    for rows in blocks:
        questions = [_questions_of(*row) for row in rows]
        trie = build_trie([question for own in questions for question in own])
        paths = iter(trie.leaves)
        for own, (_, branch) in zip(questions, rows, strict=True):
            first, *others = (next(paths) for _ in own)
            for path in (first, *(path[branch.count(0) :] for path in others)):  # the header is in the row once
                places += [start + node for node in path]
        tries.append(trie)
        start += len(trie.tokens)
    ids = [token for trie in tries for token in trie.tokens]
    positions = [depth - 1 for trie in tries for depth in trie.depths]
    return torch.tensor([ids]), torch.tensor([positions]), PackedRows(tries), torch.tensor(places)


def _questions_of(tokens: list[int], branches: list[int]) -> list[list[int]]:
    """Return the header followed by each branch: 1 2 | 3 | 4 5 -> [1, 2, 3], [1, 2, 4, 5]."""
    shared = branches.count(0)
    if shared == len(tokens):
        return [tokens]
    ends = [i for i in range(shared + 1, len(tokens)) if branches[i] != branches[i - 1]]
    starts = [shared, *ends]
    return [tokens[:shared] + tokens[start:end] for start, end in zip(starts, [*ends, len(tokens)], strict=True)]


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, packed_rows: PackedRows | None = None, sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:  # fmt: skip
    """Attention in transformers' interface: q, k, v (batch, heads, tokens, dim) -> (batch, tokens, heads, dim)."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if packed_rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **kwargs
        )
    rows = []
    parts = (part.split(packed_rows.lengths, dim=2) for part in (query, key, value))
    for q, k, v, mask in zip(*parts, packed_rows.masks(sliding_window), strict=True):
        rows.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True,
                dropout_p=kwargs.get("dropout", 0.0),
            )
        )  # fmt: skip
    return torch.cat(rows, dim=2).transpose(1, 2), None
