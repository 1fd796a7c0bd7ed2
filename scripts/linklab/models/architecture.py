"""What differs between decoders: where their layers, head and settings are, and how they take an attention mask.

Everything else of the toolkit reads rows through these functions, so that a model works here because of its parts and
not because of its name. What does not fit is refused when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from linklab.cli import UserError

if TYPE_CHECKING:
    from torch import Tensor

# Families whose training and scoring tests compare with plain transformers, row by row, by config.model_type.
TESTED = {
    "gemma3": "Gemma 3", "gemma3_text": "Gemma 3", "llama": "Llama 3, SmolLM2", "mistral": "Mistral",
    "phi3": "Phi-3, Phi-4", "qwen2": "Qwen2.5", "qwen3": "Qwen3", "smollm3": "SmolLM3",
}  # fmt: skip


def text_config(model: Any) -> Any:
    """Return the settings of the language model, which those of images hold one level deeper."""
    return model.config.get_text_config(decoder=True)


def decoder_of(model: Any) -> Any:
    """Return the layers that turn tokens into hidden states, without the head and without an image tower."""
    return model.get_decoder()


def head_of(model: Any) -> Any:
    """Return the layer that turns hidden states into logits."""
    return model.get_output_embeddings()


def cap_logits(logits: Tensor, config: Any) -> Tensor:
    """Return logits as the model's config bounds them: tanh, scaled to `final_logit_softcapping` where there is one."""
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else (logits / cap).tanh() * cap


def attention_masks(model: Any, seen: Tensor, near: Tensor) -> Any:
    """Return masks as the decoder takes them: one for each kind of layer, or the one that all its layers share.

    `seen` (rows, 1, queries, keys) is True where a query sees a key; `near` is the same within the sliding window.
    """
    config = text_config(model)
    if getattr(config, "layer_types", None):
        return {"full_attention": seen, "sliding_attention": near}
    return near if getattr(config, "sliding_window", None) else seen


def outside_decoder(model: Any) -> str | None:
    """Return a pattern of the modules that read images, which get no adapters; None for a model of text alone."""
    decoder = decoder_of(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    towers = [name for name, _ in model.named_modules() if "tower" in name.split(".")[-1] or "projector" in name]
    return rf"^(?!{prefix.replace('.', '[.]')}[.]).*" if towers else None


def check(model: Any, name: str) -> None:
    """Raise a UserError unless two rows in one sequence get the logits that each has alone.

    Training and scoring put several rows, or all legal answers, into one sequence with a mask and positions of their
    own. A decoder that ignores either, or scales its logits in a way not known here, would be wrong in silence.
    """
    kind = getattr(model.config, "model_type", "")
    if kind in TESTED:
        return
    try:
        worst = _largest_error(model)
    except Exception as error:  # whatever a foreign decoder raises about arguments that it does not take
        _refuse(name, kind, str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__)
    if not worst < 1e-2:
        _refuse(name, kind, f"rows side by side change each other's logits by {worst:.2g}")


def _refuse(name: str, kind: str, why: str) -> None:
    families = ", ".join(sorted(set(TESTED.values())))
    raise UserError(f"{name}: models of type '{kind}' are not supported ({why}); tested families: {families}")


def _largest_error(model: Any) -> float:
    """Return the largest difference between logits of rows alone and of the same rows in one masked sequence."""
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
