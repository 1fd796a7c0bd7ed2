"""A Gemma 3 with a few hundred thousand untrained parameters, built on demand for tests and the one-minute demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 48, "sliding_window": 512}  # fmt: skip
SEED = 20260


def fingerprint() -> str:
    """Return 12 hex digits for the cache folder's name; they change with this file and the transformers version."""
    import hashlib

    import transformers

    return hashlib.sha256(Path(__file__).read_bytes() + transformers.__version__.encode()).hexdigest()[:12]


def build_tokenizer() -> Any:
    """Return a byte-level tokenizer with Gemma's special tokens: one token per byte, so any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from linklab.models.chat import GEMMA_CHAT_TEMPLATE

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # `user` and `model`, which every chat prompt repeats, are one token each, as in Gemma's own vocabulary.
    merges = [("u", "s"), ("us", "e"), ("use", "r"), ("m", "o"), ("mo", "d"), ("mod", "e"), ("mode", "l")]
    vocabulary = {token: i for i, token in enumerate(special + alphabet + ["".join(pair) for pair in merges])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = GEMMA_CHAT_TEMPLATE
    return tokenizer


def build_model(tokenizer: Any, **overrides: Any) -> Any:
    """Return an untrained Gemma3ForCausalLM with the same weights at every call."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    settings: dict[str, Any] = (
        TINY | {"vocab_size": len(tokenizer), "query_pre_attn_scalar": TINY["head_dim"]} | overrides
    )
    config = Gemma3TextConfig(
        **settings, max_position_embeddings=4096, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        layer_types=["sliding_attention"] * (settings["num_hidden_layers"] - 1) + ["full_attention"],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return Gemma3ForCausalLM(config)
