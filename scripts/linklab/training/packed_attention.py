"""Padding-free batches: the rows of a batch end to end in one sequence, each attending to itself alone.

Rows of links have 60 to 300 tokens, so a batch of 8 is 30 % padding, and a CPU pays for every padded token. Packed, the
linear layers see real tokens only and attention runs row by row. A GPU keeps the padded batch: one launch for all rows
is worth more there than the padding costs.
"""

from __future__ import annotations

ATTENTION = "rows_sdpa"


def use_row_attention(model) -> None:
    """Let `model` take packed rows: with `row_lengths` attention stays inside a row, without it all is as before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)


def pack(input_ids, attention_mask):
    """Return (input_ids (1, all tokens), position_ids (1, all tokens), row lengths) without the padding.

    `input_ids` and `attention_mask` are (rows, tokens); padding may be on either side.
    """
    real = attention_mask.bool()
    positions = (real.cumsum(1) - 1)[real]
    return input_ids[real][None], positions[None], real.sum(1).tolist()


def _attend(module, query, key, value, attention_mask, scaling=None, row_lengths=None, sliding_window=None, **kwargs):
    """Attention as transformers calls it: q, k, v (batch, heads, tokens, dim) -> (batch, tokens, heads, dim)."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if row_lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **kwargs
        )
    rows = []
    for q, k, v in zip(*(part.split(row_lengths, dim=2) for part in (query, key, value)), strict=True):
        band = _sliding_mask(q, sliding_window)
        rows.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=True,
                dropout_p=kwargs.get("dropout", 0.0),
            )
        )  # fmt: skip
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _sliding_mask(query, window: int | None):
    """Return the mask of a row longer than a sliding layer's window, (tokens, tokens), True where seen; else None."""
    n_tokens = query.shape[2]
    if window is None or n_tokens <= window:
        return None
    seen = query.new_ones(n_tokens, n_tokens).tril().bool()
    return seen & ~seen.tril(-window)
