"""Processes for the fixture `start_process`, forked from one that has only imported the scripts' packages."""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path

IMPORTED = [
    "torch", "transformers.trainer", "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.auto.processing_auto", "peft", "bitsandbytes", "torch.utils.tensorboard",
    "linklab.training.training", "linklab.training.answer_trainer", "linklab.training.results",
    "finetune_gemma_from_csv",
]  # fmt: skip


def start_server() -> None:
    """Make multiprocessing's fork server a copy of this process as it is now, instead of a new interpreter.

    A new one needs five seconds to import what this one has imported already.
    """
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # imports are not garbage: a collection over them would take half a second

    def fork(path: bytes, arguments: list[str], descriptors: list[int]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                first = 3
                for descriptor in [*sorted(descriptors), 1 << 16]:
                    os.closerange(first, descriptor)  # otherwise it would not notice when this process ends
                    first = descriptor + 1
                exec(arguments[-1])  # the code that a new interpreter would get with -c
            finally:
                os._exit(0)
        return pid

    plain = forkserver.util.spawnv_passfds
    forkserver.util.spawnv_passfds = fork
    try:
        forkserver.ensure_running()
    finally:
        forkserver.util.spawnv_passfds = plain


def start(log: Path, module: str, function: str, arguments: tuple) -> multiprocessing.Process:
    """Start `module.function(*arguments)` in a new process that prints into `log`."""
    words = str(log), dict(os.environ), os.getcwd(), module, function, arguments
    process = multiprocessing.get_context("forkserver").Process(target=enter, args=words)
    process.start()
    return process


def enter(log: str, environment: dict, folder: str, module: str, function: str, arguments: tuple) -> None:
    """Call a function of a module with its output in `log`, and exit with the code it returns."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    for logger in list(logging.root.manager.loggerDict.values()):  # their handlers hold pytest's replacement of stderr
        for handler in getattr(logger, "handlers", []):
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)
    gc.enable()
    with contextlib.suppress(BrokenPipeError):
        code = getattr(importlib.import_module(module), function)(*arguments)
    sys.stderr.flush()
    os._exit(code or 0)
