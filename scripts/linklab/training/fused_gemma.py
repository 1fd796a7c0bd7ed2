"""Gemma 3's decoder layer with LoRA in fewer passes over memory, for training packed rows on a CPU.

A quarter of a training step on a CPU is not matrix products: casts to bfloat16 and back, normalizations in seven
passes, an adapter's output computed, scaled and added. Here each of these is one function with its own gradient. The
parameters stay PEFT's, so saving, loading and merging do not change. Layers that are more than plain LoRA (4-bit
weights, dropout, DoRA) keep PEFT's own forward.

Number types, as with autocast: the residual stream, the normalizations and the softmax are float32; matrix products
use the type of the frozen weights.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from linklab.training import fused_lora

if TYPE_CHECKING:
    from torch import Tensor

    from linklab.training.packed_attention import PackedRows

ATTENTION_LINEARS, MLP_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def fuse(model: Any) -> int:
    """Give the fused forward to every Gemma 3 layer with plain LoRA on all its linear layers; return how many."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer

    fused = 0
    for layer in model.modules():
        if isinstance(layer, Gemma3DecoderLayer) and all(map(fused_lora.is_plain, _linears(layer))):
            layer.forward = types.MethodType(_make_forward(layer.forward), layer)
            fused += 1
    return fused


def _linears(layer: Any) -> list[Any]:
    attention = [getattr(layer.self_attn, name) for name in ATTENTION_LINEARS]
    return attention + [getattr(layer.mlp, name) for name in MLP_LINEARS]


def _is_on(linear: Any) -> bool:
    return fused_lora.is_plain(linear) and not linear.disable_adapters and not linear.merged


def _make_forward(plain_forward: Any) -> Any:
    """Return a layer's forward: fused for packed rows while its adapters are on, `plain_forward` otherwise."""

    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = kwargs.get("packed_rows")
        if args or rows is None or not all(map(_is_on, _linears(self))):
            return plain_forward(hidden_states, *args, **kwargs)
        return _run_layer(self, hidden_states, kwargs["position_embeddings"], rows)

    return forward


def _run_layer(layer: Any, x: Tensor, position_embeddings: tuple[Tensor, Tensor], rows: PackedRows) -> Tensor:
    """Return the layer's output for packed rows x (1, tokens, hidden), in the same shape; both are float32."""
    import torch

    norm, attend = functions()
    attention, mlp = layer.self_attn, layer.mlp
    n_tokens, head_dim = x.shape[1], attention.head_dim
    half = head_dim // 2  # the given cosines and sines repeat after half of head_dim
    cos, sin = (part[0, :, None, :half].float() for part in position_embeddings)
    biases = rows.biases(attention.sliding_window)
    compute = attention.q_proj.get_base_layer().weight.dtype

    h = norm(x[0], layer.input_layernorm, compute)
    q, k, v = fused_lora.multiply(h, attention.q_proj, attention.k_proj, attention.v_proj)
    q = norm(q.view(n_tokens, -1, head_dim), attention.q_norm, compute)
    k = norm(k.view(n_tokens, -1, head_dim), attention.k_norm, compute)
    o = attend(q, k, v.view(n_tokens, -1, head_dim), cos, sin, biases, rows.lengths, attention.scaling)
    (o,) = fused_lora.multiply(o.reshape(n_tokens, -1), attention.o_proj)
    x = x[0] + norm(o, layer.post_attention_layernorm, torch.float32)

    h = norm(x, layer.pre_feedforward_layernorm, compute)
    gate, up = fused_lora.multiply(h, mlp.gate_proj, mlp.up_proj)
    (y,) = fused_lora.multiply(mlp.act_fn(gate) * up, mlp.down_proj)
    return (x + norm(y, layer.post_feedforward_layernorm, torch.float32))[None]


@functools.cache
def functions() -> tuple[Any, Any]:
    """Return norm(x, module, type) and attend(q, k, v, ...); in a function: this module must import without torch."""
    import torch

    class Norm(torch.autograd.Function):
        """Gemma's RMSNorm: x (..., n), scale (n,) = 1 + weight -> (..., n) in type `dtype`."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float, dtype: Any) -> Tensor:
            wide = x.float()
            size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            inverse = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
            ctx.save_for_backward(x, inverse, scale)
            return (wide * inverse).mul_(scale).to(dtype)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
            x, inverse, scale = ctx.saved_tensors
            normal = x.float() * inverse
            grad = grad.float() * scale
            along = torch.linalg.vecdot(grad, normal).unsqueeze(-1).div_(x.shape[-1])
            return grad.addcmul_(normal, along, value=-1).mul_(inverse).to(x.dtype), None, None, None

    class Attention(torch.autograd.Function):
        """Rotary positions and softmax attention per block of rows, one product for all query heads of a key head."""

        @staticmethod
        def forward(
            ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, biases: list[Tensor],
            lengths: list[int], scale: float,
        ) -> Tensor:  # fmt: skip
            """q (tokens, heads, dim), k and v (tokens, key heads, dim), cos and sin (tokens, 1, dim / 2)."""
            q, k = _rotate(q, cos, sin).mul_(scale), _rotate(k, cos, sin)
            out, seen = torch.empty_like(q), []
            groups = k.shape[1]
            parts = (part.split(lengths) for part in (q, k, v, out))
            for row_q, row_k, row_v, row_out, bias in zip(*parts, biases, strict=True):
                n = len(row_q)
                # (key heads, tokens x query heads of each, dim)
                flat_q = row_q.view(n, groups, -1, q.shape[2]).transpose(0, 1).reshape(groups, -1, q.shape[2])
                scores = torch.bmm(flat_q, row_k.permute(1, 2, 0)).float().view(groups, n, -1, n)
                p = torch.softmax(scores.add_(bias[:, None]), dim=-1).to(q.dtype).view(groups, -1, n)
                own = torch.bmm(p, row_v.transpose(0, 1)).view(groups, n, -1, q.shape[2])
                row_out.view(n, groups, -1, q.shape[2]).copy_(own.transpose(0, 1))
                seen.append(p)
            ctx.save_for_backward(q, k, v, cos, sin, *seen)
            ctx.lengths, ctx.scale = lengths, scale
            return out

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
            q, k, v, cos, sin, *seen = ctx.saved_tensors
            groups, dim = k.shape[1:]
            q_grad, k_grad, v_grad = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
            parts = (part.split(ctx.lengths) for part in (q, k, v, grad, q_grad, k_grad, v_grad))
            for row_q, row_k, row_v, row_grad, to_q, to_k, to_v, p in zip(*parts, seen, strict=True):
                n = len(row_q)
                flat_q, flat = (
                    part.view(n, groups, -1, dim).transpose(0, 1).reshape(groups, -1, dim) for part in (row_q, row_grad)
                )
                to_v.copy_(torch.bmm(p.transpose(1, 2), flat).transpose(0, 1))
                wide = p.float()
                p_grad = torch.bmm(flat, row_v.permute(1, 2, 0)).float()
                p_grad.sub_(torch.linalg.vecdot(p_grad, wide).unsqueeze(-1)).mul_(wide)
                scores_grad = p_grad.to(q.dtype)
                own = torch.bmm(scores_grad, row_k.transpose(0, 1)).view(groups, n, -1, dim)
                to_q.view(n, groups, -1, dim).copy_(own.transpose(0, 1))
                to_k.copy_(torch.bmm(scores_grad.transpose(1, 2), flat_q).transpose(0, 1))
            q_grad, k_grad = _rotate(q_grad.mul_(ctx.scale), cos, -sin), _rotate(k_grad, cos, -sin)
            return q_grad, k_grad, v_grad, None, None, None, None, None

    def norm(x: Tensor, module: Any, dtype: Any) -> Tensor:
        return Norm.apply(x, 1.0 + module.weight.float(), module.eps, dtype)

    return norm, Attention.apply


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x (tokens, heads, dim) rotated by its positions; the two numbers of a pair are dim / 2 apart."""
    import torch

    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = torch.empty_like(x)
    torch.mul(first, cos, out=turned[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=turned[..., half:]).addcmul_(first, sin)
    return turned
