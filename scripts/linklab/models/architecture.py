"""Differences between decoders: where their layers, head and settings are, and which attention masks they expect.

The rest of the toolkit uses models through these functions only, so a model works here because of its parts and not
because of its name. A model that does not fit is refused when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from linklab.cli import UserError

if TYPE_CHECKING:
    from torch import Tensor

# Families, by config.model_type, that tests compare with plain transformers row by row, in training and scoring.
TESTED = {
    "gemma3": "Gemma 3", "gemma3_text": "Gemma 3", "llama": "Llama 3, SmolLM2", "mistral": "Mistral",
    "phi3": "Phi-3, Phi-4", "qwen2": "Qwen2.5", "qwen3": "Qwen3", "smollm3": "SmolLM3",
}  # fmt: skip


def text_config(model: Any) -> Any:
    """Return the config of the language model; models that read images keep it one level deeper."""
    return model.config.get_text_config(decoder=True)


def decoder_of(model: Any) -> Any:
    """Return the layers that turn tokens into hidden states, without the head and any image tower."""
    return model.get_decoder()


def head_of(model: Any) -> Any:
    """Return the layer that turns hidden states into logits."""
    return model.get_output_embeddings()


def cap_logits(logits: Tensor, config: Any) -> Tensor:
    """Return logits with the config's `final_logit_softcapping` applied: cap * tanh(logits / cap), if it has one."""
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else (logits / cap).tanh() * cap


def attention_masks(model: Any, seen: Tensor, near: Tensor) -> Any:
    """Return the masks the decoder expects: one for each kind of layer, or one for all its layers.

    `seen` (rows, 1, queries, keys) is True where a query sees a key; `near` is the same within the sliding window.
    """
    config = text_config(model)
    if getattr(config, "layer_types", None):
        return {"full_attention": seen, "sliding_attention": near}
    return near if getattr(config, "sliding_window", None) else seen


def outside_decoder(model: Any) -> str | None:
    """Return a pattern of the modules that read images, which get no adapters; None for a text-only model."""
    decoder = decoder_of(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    towers = [name for name, _ in model.named_modules() if "tower" in name.split(".")[-1] or "projector" in name]
    return rf"^(?!{prefix.replace('.', '[.]')}[.]).*" if towers else None


def check(model: Any, name: str) -> None:
    """Raise a UserError unless two rows in one sequence get the same logits as each row alone.

    Training and scoring put several rows, or all legal answers, into one sequence with their own mask and positions. A
    decoder that ignores either, or scales its logits in an unknown way, would give wrong results without an error.
    """
    kind = getattr(model.config, "model_type", "")
    if kind in TESTED:
        return
    try:
        worst = _largest_error(model)
    except Exception as error:  # an unknown decoder may raise anything for arguments it does not take
        _refuse(name, kind, str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__)
    if not worst < 1e-2:
        _refuse(name, kind, f"rows side by side change each other's logits by {worst:.2g}")


def _refuse(name: str, kind: str, why: str) -> None:
    families = ", ".join(sorted(set(TESTED.values())))
    raise UserError(f"{name}: models of type '{kind}' are not supported ({why}); tested families: {families}")


def _largest_error(model: Any) -> float:
    """Return the largest difference between the logits of two rows alone and in one masked sequence."""
    import torch

    with torch.inference_mode():
        rows = [torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[7, 6, 5]])]
        rows = [row.to(model.device) for row in rows]
        alone = torch.cat([model(input_ids=row, use_cache=False).logits[0] for row in rows])
        lengths = [row.shape[1] for row in rows]
        seen = torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)).bool()[None, None].to(model.device)
        positions = torch.cat([torch.arange(n) for n in lengths])[None].to(model.device)
        hidden = decoder_of(model)(
            input_ids=torch.cat(rows, dim=1), position_ids=positions, attention_mask=attention_masks(model, seen, seen),
            use_cache=False,
        ).last_hidden_state  # fmt: skip
        together = cap_logits(head_of(model)(hidden[0]), text_config(model))
    return (alone.float() - together.float()).abs().max().item()
