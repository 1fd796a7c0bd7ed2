"""Cross-entropy of a frozen head in one pass: a token's 262,144 logits are processed once, while they are in cache.

The usual way stores logits, softmax and gradients in float32 and bfloat16: five times 24 MB for the 23 answer tokens of
a step. Here each token's logits become its gradient in place, and only the gradient of the hidden states is kept.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from linklab.models.architecture import head_of, text_config

if TYPE_CHECKING:
    from torch import Tensor


def can_fuse(model: Any, input_ids: Tensor) -> bool:
    """Say whether the model is on a CPU and its head is a frozen, plain linear layer without a cap on its logits."""
    import torch

    head = head_of(model)
    return (
        not input_ids.is_cuda and type(head) is torch.nn.Linear and head.bias is None
        and not head.weight.requires_grad and getattr(text_config(model), "final_logit_softcapping", None) is None
    )  # fmt: skip


def total(hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor | None = None) -> Tensor:
    """Return the summed cross-entropy of `hidden` (answer tokens, hidden) with the head `weight` (vocab, hidden).

    Each token's loss is multiplied by its `token_weights` (answer tokens,), if given.
    """
    return _function().apply(hidden.to(weight.dtype), weight, targets, token_weights)


@functools.cache
def _function() -> Any:
    """Return the autograd function; made in a function because this module must import without torch."""
    import torch

    class HeadLoss(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor | None
        ) -> Tensor:  # fmt: skip
            logits = hidden @ weight.T
            losses = torch.empty(len(hidden))
            for i, target in enumerate(targets):
                row = logits[i].float()
                normal = torch.logsumexp(row, dim=0)
                losses[i] = normal - row[target]
                row.sub_(normal).exp_()  # in float32 this is the row of `logits` itself
                row[target] -= 1
                logits[i] = row
            if token_weights is not None:
                losses *= token_weights
                logits *= token_weights[:, None].to(logits.dtype)
            ctx.save_for_backward(logits @ weight)
            return losses.sum()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
            (hidden_grad,) = ctx.saved_tensors
            return hidden_grad * grad.to(hidden_grad.dtype), None, None, None

    return HeadLoss
