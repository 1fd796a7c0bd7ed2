"""Padding-free batches: the rows of a batch end to end in one sequence, each attending to itself alone.

Rows of links have 60 to 300 tokens, so a batch of 8 is 30 % padding, and a CPU pays for every padded token. Packed, the
linear layers see real tokens only and attention runs row by row. A GPU keeps the padded batch: one launch for all rows
is worth more there than the padding costs.

A row may have branches, one per choice asked about: each sees the header all share and itself, so the header is
computed once. `branches` says where each token belongs: 0 for the header, 1, 2, ... for the branches.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = "rows_sdpa"
BLOCK = 256  # tokens of rows that share one product of scores


def use_row_attention(model: Any) -> None:
    """Let `model` take packed rows: with `packed_rows` attention stays inside a row, without it all is as before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)


class PackedRows:
    """Rows end to end in one sequence: how long each is, and which of its tokens each token sees."""

    def __init__(self, positions: list[Tensor], branches: list[Tensor]) -> None:
        """`positions` and `branches` hold a tensor (tokens,) per row."""
        self.positions, self.branches = positions, branches
        self.lengths = [len(row) for row in positions]
        self.masks = functools.cache(self._masks)  # all layers of one kind share them
        self.blocks = functools.cache(self._blocks)

    def _masks(self, window: int | None) -> list[Tensor | None]:
        """Return per row its mask (tokens, tokens), True where seen; None where a token sees all before it."""
        return [
            seen_tokens(branches[None], positions[None], window)[0]
            if _needs_mask(branches, positions, window)
            else None
            for branches, positions in zip(self.branches, self.positions, strict=True)
        ]

    def _blocks(self, window: int | None) -> tuple[list[int], list[Tensor]]:
        """Return blocks of neighbouring rows: the tokens of each, and what is added to its scores (tokens, tokens).

        That is 0 where a token is seen, else minus infinity. A block holds a long row, or short ones up to BLOCK
        tokens: what their scores waste is less than a call per row.
        """
        import torch

        blocks: list[list[int]] = []
        for row, length in enumerate(self.lengths):
            if blocks and sum(self.lengths[i] for i in blocks[-1]) + length <= BLOCK:
                blocks[-1].append(row)
            else:
                blocks.append([row])
        biases = []
        for rows in blocks:
            branches, positions = (torch.cat([part[i] for i in rows]) for part in (self.branches, self.positions))
            owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([self.lengths[i] for i in rows]))
            seen = seen_tokens(branches[None], positions[None], window)[0] & (owner[:, None] == owner)
            biases.append(torch.zeros(seen.shape).masked_fill_(~seen, -math.inf))
        return [len(bias) for bias in biases], biases


def _needs_mask(branches: Tensor, positions: Tensor, window: int | None) -> bool:
    return bool(branches.any()) or (window is not None and len(positions) > window)


def seen_tokens(branches: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """Return (rows, tokens, tokens), True where a token (second axis) sees another (third axis).

    It sees the header and its own branch, up to itself, and no further back than a sliding `window`. `branches` and
    `positions` are (rows, tokens).
    """
    same = branches[:, None, :] == branches[:, :, None]
    seen = (same | (branches[:, None, :] == 0)).tril()
    return seen if window is None else seen & (positions[:, :, None] - positions[:, None, :] < window)


def padded_masks(
    branches: Tensor, positions: Tensor, attention_mask: Tensor | None, window: int | None
) -> dict[str, Tensor]:
    """Return the masks (rows, 1, tokens, tokens) of a padded batch for both kinds of layer; padding sees itself."""
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
    input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None = None, branches: Tensor | None = None
) -> tuple[Tensor, Tensor, PackedRows]:
    """Return (input_ids (1, all tokens), position_ids (1, all tokens), rows) without the padding.

    All arguments are (rows, tokens); padding may be on either side. Without `positions` tokens count up from 0.
    """
    import torch

    real = attention_mask.bool()
    positions = real.cumsum(1) - 1 if positions is None else positions
    branches = torch.zeros_like(input_ids) if branches is None else branches
    lengths = real.sum(1).tolist()
    packed = PackedRows(list(positions[real].split(lengths)), list(branches[real].split(lengths)))
    return input_ids[real][None], positions[real][None], packed


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, packed_rows: PackedRows | None = None, sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Any]:  # fmt: skip
    """Attention as transformers calls it: q, k, v (batch, heads, tokens, dim) -> (batch, tokens, heads, dim)."""
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
