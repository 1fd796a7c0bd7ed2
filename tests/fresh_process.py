"""How a process of the fixture `start_process` begins, and what it has imported by then."""

import contextlib
import gc
import importlib
import os
import sys

gc.disable()  # while the others are imported
IMPORTED = [
    "fresh_process", "torch", "transformers.trainer", "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.auto.processing_auto", "peft", "bitsandbytes", "torch.utils.tensorboard",
    "linklab.training.training", "linklab.training.results", "finetune_gemma_from_csv",
]  # fmt: skip


def enter(log: str, module: str, function: str, arguments: tuple) -> None:
    """Call a function of a module, with all it prints in `log`, and end with what it returns as exit code."""
    gc.freeze()  # what is imported is not garbage
    gc.enable()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    with contextlib.suppress(BrokenPipeError):
        code = getattr(importlib.import_module(module), function)(*arguments)
    sys.stderr.flush()
    os._exit(code or 0)
