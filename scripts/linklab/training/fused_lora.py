"""LoRA's linear layer in fewer passes over memory: y = x W' + s (x A') B' added in place, and its gradient.

PEFT computes the adapter's output, scales it and adds it: three passes over (tokens, out), a tenth of a step on a CPU
at rank 16. Layers with the same input read it once. The parameters stay PEFT's, so saving, loading and merging do not
change.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fuse(model: Any) -> int:
    """Give the fused product to every plain LoRA layer of a PEFT model; return how many.

    Unchanged: quantized base layers or base layers with a bias, dropout, DoRA and other variants, several adapters.
    """
    fused = 0
    for layer in model.modules():
        if is_plain(layer):
            layer.forward = types.MethodType(_make_forward(layer.forward), layer)
            fused += 1
    return fused


def is_plain(layer: Any) -> bool:
    """Say whether a layer is plain LoRA on a frozen linear layer without bias."""
    import torch
    from peft.tuners.lora.layer import Linear

    if not isinstance(layer, Linear):
        return False
    base, names = layer.get_base_layer(), list(layer.lora_A)
    return (
        type(base) is torch.nn.Linear and base.bias is None and base.weight.dtype in (torch.float32, torch.bfloat16)
        and not base.weight.requires_grad and len(names) == 1
        and not layer.lora_variant and not layer.lora_bias[names[0]]
        and isinstance(layer.lora_dropout[names[0]], torch.nn.Identity)
    )  # fmt: skip


def _make_forward(plain_forward: Any) -> Any:
    """Return a layer's forward: fused while the adapter is on and in training, PEFT's own otherwise."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or self.disable_adapters or self.merged or not self.training:
            return plain_forward(x, *args, **kwargs)
        flat = x.reshape(-1, x.shape[-1]).to(self.get_base_layer().weight.dtype)
        return multiply(flat, self)[0].view(*x.shape[:-1], -1)

    return forward


def multiply(x: Tensor, *layers: Any) -> tuple[Tensor, ...]:
    """Return each plain LoRA layer's output for x (tokens, in), in the type of its frozen weight."""
    weights, scales = [], []
    for layer in layers:
        (name,) = layer.lora_A
        weights += [layer.get_base_layer().weight, layer.lora_A[name].weight, layer.lora_B[name].weight]
        scales.append(layer.scaling[name])
    return product().apply(x, tuple(scales), *weights)


@functools.cache
def product() -> Any:
    """Return the autograd function; made in a function because this module must import without torch."""
    import torch

    class LoraProducts(torch.autograd.Function):
        """y = x W' + s (x A') B' of several layers with the same input x (tokens, in)."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, scales: tuple[float, ...], *weights: Tensor) -> tuple[Tensor, ...]:
            """`weights` holds W (out, in), A (rank, in) and B (out, rank) of each layer."""
            bases, downs = weights[::3], weights[1::3]
            ups = [b.to(x.dtype) for b in weights[2::3]]
            down = torch.cat(downs).to(x.dtype)
            ranks = [len(a) for a in downs]
            low = x @ down.T  # (tokens, all ranks)
            parts = zip(bases, low.split(ranks, dim=1), ups, scales, strict=True)
            out = tuple((x @ base.T).addmm_(part, up.T, alpha=scale) for base, part, up, scale in parts)
            ctx.save_for_backward(x, low, down, *bases, *ups)
            ctx.scales, ctx.ranks, ctx.adapter_type = scales, ranks, downs[0].dtype
            return out

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
            x, low, down, *rest = ctx.saved_tensors
            bases, ups = rest[: len(grads)], rest[len(grads) :]
            low_grad = torch.empty_like(low)
            parts = zip(grads, ups, ctx.scales, low.split(ctx.ranks, 1), low_grad.split(ctx.ranks, 1), strict=True)
            up_grads = []
            for grad, up, scale, own_low, own_low_grad in parts:
                torch.mul(grad @ up, scale, out=own_low_grad)
                up_grads.append((grad.T @ own_low).to(ctx.adapter_type).mul_(scale))
            x_grad = None
            if ctx.needs_input_grad[0]:
                x_grad = low_grad @ down
                for grad, base in zip(grads, bases, strict=True):
                    x_grad.addmm_(grad, base)
            down_grads = (low_grad.T @ x).to(ctx.adapter_type).split(ctx.ranks)
            each = zip([None] * len(grads), down_grads, up_grads, strict=True)
            return x_grad, None, *(gradient for layer in each for gradient in layer)

    return LoraProducts
