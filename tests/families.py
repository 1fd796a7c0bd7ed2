"""Tiny untrained models of common decoder families, each with its own chat template and stop tokens."""

from pathlib import Path

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
WINDOW = 24  # tokens that a sliding layer sees: fewer than a test prompt has
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")  # fmt: skip
LLAMA3 = ("{% set date_string = strftime_now('%d %b %Y') %}{{ bos_token + 'Today Date: ' + date_string + '\n\n' }}"
          "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + "
          "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
          "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")  # fmt: skip
MISTRAL = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
           "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}"
           "{% endif %}{% endfor %}")  # fmt: skip
PHI3 = ("{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}")  # fmt: skip

# name: (config class, more settings, template (None: Gemma's), bos, eos, more special tokens, end-of-turn text)
FAMILIES = {
    "gemma3_text": ("Gemma3TextConfig", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW,
                                         "layer_types": ["sliding_attention", "full_attention"]},
                    None, "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], "<end_of_turn>"),
    "gemma3_with_images": ("Gemma3Config", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW,
                                            "layer_types": ["sliding_attention", "full_attention"]},
                           None, "<bos>", "<eos>", ["<start_of_turn>", "<end_of_turn>"], "<end_of_turn>"),
    "qwen2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
              CHATML, None, "<|im_end|>", ["<|im_start|>"], "<|im_end|>"),
    "qwen3": ("Qwen3Config", {"head_dim": 16}, CHATML, None, "<|im_end|>", ["<|im_start|>"], "<|im_end|>"),
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}, LLAMA3, "<|begin_of_text|>", "<|eot_id|>",
              ["<|start_header_id|>", "<|end_header_id|>"], "<|eot_id|>"),
    "smollm2": ("LlamaConfig", {"tie_word_embeddings": True}, CHATML, None, "<|im_end|>", ["<|im_start|>"],
                "<|im_end|>"),
    "smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0]}, CHATML, None, "<|im_end|>", ["<|im_start|>"],
                "<|im_end|>"),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW}, MISTRAL, "<s>", "</s>", ["[INST]", "[/INST]"], "</s>"),
    "phi3": ("Phi3Config", {"sliding_window": WINDOW}, PHI3, None, "<|endoftext|>",
             ["<|user|>", "<|assistant|>", "<|end|>"], "<|end|>"),
}  # fmt: skip


def build_tokenizer(template, bos, eos, more):
    """Return a byte-level tokenizer with these special tokens: one token per byte, so any text round-trips."""
    from linklab.models.chat import GEMMA_CHAT_TEMPLATE
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", eos, *([bos] if bos else []), *more]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token=eos, bos_token=bos, unk_token="<unk>",
        additional_special_tokens=more, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.chat_template = template or GEMMA_CHAT_TEMPLATE
    return made


def build_model(name: str, tokenizer):
    """Return the untrained model of a family, with the same weights at every call."""
    import torch
    import transformers

    kind, more, *_ = FAMILIES[name]
    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
              "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    if kind == "Gemma3Config":
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                  "image_size": 28, "patch_size": 14}  # fmt: skip
        text = transformers.Gemma3TextConfig(**SHAPE, **common, **more)
        config = transformers.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
        make = transformers.Gemma3ForConditionalGeneration
    else:
        config = getattr(transformers, kind)(**SHAPE, **common, **more)
        make = getattr(transformers, kind.replace("TextConfig", "Config").replace("Config", "ForCausalLM"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return make(config)


def save_family(name: str, folder: Path) -> Path:
    """Write a family's untrained model and tokenizer in the form in which models are published; returns the folder."""
    tokenizer = build_tokenizer(*FAMILIES[name][2:6])
    build_model(name, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
