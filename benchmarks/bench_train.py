"""Train the same rows with this toolkit, transformers' plain Trainer and TRL's SFTTrainer, and compare loss and speed.

generated links -> benchmarks/results/train.md

    python -m pip install trl==1.16.0
    python benchmarks/bench_train.py

Each engine runs in its own process and gets the same rows in the same order and batches, the same initial weights,
optimizer (fused AdamW, constant learning rate), gradient clipping and precision, and no gradient checkpointing (TRL
uses it by default). The losses of all five steps must agree; all steps but the first are timed. Rounds are interleaved.
--model tiny checks in a minute that everything runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import bench
from linklab import cli, files
from linklab.manifest import commit

if TYPE_CHECKING:
    from linklab.training.answer_loss import EncodedExamples

ENGINES = {"ours": "this toolkit", "plain": "transformers Trainer", "trl": "TRL SFTTrainer"}
MODES = ("full", "lora", "qlora")
LOSS_TOLERANCE = 1e-4
TARGETS = {"trl": 2.5, "plain": 1.7}  # full fine-tuning: our rows per second over theirs
SEED = 0
# Small, because AdamW's first steps turn the rounding of a gradient near zero into a full step up or down: with 5e-5
# TRL's losses agree within 2e-5 in the first three steps, and differ by 1e-3 in the fifth.
LEARNING_RATE = 1e-5
# Dense bfloat16 and TF32 operations per second, from NVIDIA's data sheets
PEAK_FLOPS = {"H100": {"bf16": 989e12, "fp32": 67e12}, "H200": {"bf16": 989e12, "fp32": 67e12},
              "A100": {"bf16": 312e12, "fp32": 19.5e12}, "T4": {"bf16": 0, "fp32": 8.1e12}}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = bench.make_parser(__doc__)
    parser.add_argument(
        "--model",
        default="embedded",
        help="embedded, tiny, a folder, or `random` (Gemma 3 270M's shape, random weights: good for speed)",
    )
    parser.add_argument("--modes", type=cli.comma_list, default=list(MODES), help="full, lora, qlora")
    parser.add_argument("--engines", type=cli.comma_list, default=list(ENGINES), help="ours, plain, trl")
    parser.add_argument(
        "--steps", type=cli.positive_int, default=5, metavar="N", help="steps per run; the first is not timed"
    )
    parser.add_argument("--rounds", type=cli.positive_int, default=2, metavar="N", help="runs per engine for full")
    parser.add_argument("--adapter-rounds", type=cli.positive_int, default=1, metavar="N", help="the same for (q)lora")
    parser.add_argument("--batch-size", type=cli.positive_int, default=8, metavar="N", help="questions per step")
    parser.add_argument("--ask", choices=("choices", "row"), default="choices", help="a question per choice or per row")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="number type of matrix products")
    parser.add_argument("--out", metavar="FILE", help="(default: benchmarks/results/train.md; none for tiny)")
    parser.add_argument("--json", metavar="FILE", help="also write the measurements of every run")
    parser.add_argument("--profile", metavar="FILE", help="profile the last step of the first run, and write the costs")
    parser.add_argument("--worker", metavar="FILE", help=argparse.SUPPRESS)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prepare the rows, run every engine in its own process, print and save the table."""
    if args.worker:
        return work(json.loads(Path(args.worker).read_text()))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        job = prepare(args, scratch)
        found = []
        for mode in args.modes:
            for turn in range(args.rounds if mode == "full" else args.adapter_rounds):
                for engine in args.engines if turn % 2 == 0 else reversed(args.engines):
                    found.append(run_engine(job | {"mode": mode, "engine": engine, "round": turn}, scratch))
    if args.json:
        files.write_json(args.json, found, force=True)
    lines = write_page(args, found)
    print(*lines, sep="\n")
    if args.out or args.model != "tiny":
        bench.write_page(Path(args.out or bench.RESULTS / "train.md"), lines)
    return 0 if all(worst_difference(found, mode) <= LOSS_TOLERANCE for mode in args.modes) else 1


def prepare(args: argparse.Namespace, scratch: Path) -> dict:
    """Return the job for every engine: a model folder and tokenised rows, in the order of training."""
    from linklab.models import load
    from linklab.tasks import examples
    from linklab.tasks.task import make_task
    from linklab.training.answer_loss import EncodedExamples, StepSampler

    n = args.steps * args.batch_size
    table = bench.make_links(scratch / "data", max(1000, 20 * n))
    random_weights = args.model == "random"
    folder = make_random(scratch / "model") if random_weights else load.resolve(args.model)
    tokenizer = load.load_tokenizer(folder)
    chosen = examples.read_examples(table, make_task(table, ask=args.ask), "train", n)
    encoded = EncodedExamples(chosen, tokenizer, 2048, batch_of="questions")  # the default of a training
    order = list(StepSampler(encoded.lengths, args.batch_size, SEED))[:n]
    return {"folder": str(folder), "rows": [encoded[i] for i in order], "steps": args.steps,
            "batch_size": args.batch_size,
            "precision": args.precision, "learning_rate": LEARNING_RATE, "profile": args.profile}  # fmt: skip


def make_random(folder: Path) -> Path:
    """Write a model of Gemma 3 270M's shape with random weights, and the tiny model's tokenizer."""
    import torch
    from linklab.models import tiny
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    layers = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(18)]
    config = Gemma3TextConfig(vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18,
                              num_attention_heads=4, num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256,
                              sliding_window=512, layer_types=layers)  # fmt: skip
    torch.manual_seed(SEED)
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tiny.build_tokenizer().save_pretrained(folder)
    return folder


def run_engine(job: dict, scratch: Path) -> dict:
    """Run one engine in a new process; returns its measurements."""
    started = time.monotonic()
    path, result = scratch / "job.json", scratch / "result.json"
    path.write_text(json.dumps(job | {"result": str(result), "scratch": str(scratch)}))
    result.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, __file__, "--worker", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode or not result.exists():
        raise cli.UserError(f"{job['engine']} {job['mode']} failed:\n{done.stderr[-3000:]}")
    found = json.loads(result.read_text()) | {name: job[name] for name in ("mode", "engine", "round")}
    cli.say(f"{job['mode']} round {job['round']} {job['engine']}: {found['rows_a_second']:.3f} questions/s, "
            f"{found['peak_mb']:,.0f} MB, losses {' '.join(f'{loss:.5f}' for loss in found['losses'])} "
            f"({time.monotonic() - started:.0f} s in all)")  # fmt: skip
    return found


def work(job: dict) -> int:
    """Train with one engine, in its own process, and write the measurements."""
    import torch
    from linklab.models import load

    with load.quiet_transformers():
        trainer = {"ours": make_ours, "plain": make_plain, "trl": make_trl}[job["engine"]](job)
        watch = watch_steps()
        trainer.add_callback(watch)
        if job["profile"]:
            trainer.add_callback(profile_last_step(job["steps"], Path(job["profile"])))
        n_all = sum(p.numel() * (2 if type(p).__name__ == "Params4bit" else 1) for p in trainer.model.parameters())
        head = trainer.model.get_input_embeddings().weight.numel()
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    timed_rows = job["rows"][job["batch_size"] :]
    seconds = watch.ends[-1] - watch.ends[0]
    tokens = sum(len(row["input_ids"]) for row in timed_rows)
    answers = as_encoded(timed_rows).answer_tokens
    # Operations of a training: 2 per weight and token forward, 2 for the gradient of the input, and 2 for the gradient
    # of a trained weight; the head at answer tokens only. The same count for every engine.
    per_weight = 6 if job["mode"] == "full" else 4
    flops = per_weight * ((n_all - head) * tokens + head * answers)
    found = {"losses": losses, "rows_a_second": len(timed_rows) / seconds, "tokens_a_second": tokens / seconds,
             "peak_mb": watch.peak_mb, "flops_a_second": flops / seconds,
             "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}  # fmt: skip
    Path(job["result"]).write_text(json.dumps(found))
    return 0


def watch_steps():
    """Return a callback that records when each step ended and the peak memory until then."""
    import torch
    from linklab.training import training
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        ends: list[float] = []
        peak_mb = 0.0

        def on_step_end(self, args, state, control, **kwargs):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.peak_mb = training.peak_memory_mb()

    return Watch()


def profile_last_step(steps: int, path: Path):
    """Return a callback that profiles the last step and writes the 25 operations that take the most time, in ms."""
    import torch
    from transformers import TrainerCallback

    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)

    class Profile(TrainerCallback):
        profiler = torch.profiler.profile(activities=kinds)

        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == steps - 1:
                self.profiler.start()

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step != steps:
                return
            self.profiler.stop()
            events = [
                {"name": e.key, "calls": e.count, "cpu_ms": e.self_cpu_time_total / 1000,
                 "device_ms": getattr(e, "self_device_time_total", 0) / 1000}
                for e in self.profiler.key_averages()
            ]  # fmt: skip
            events.sort(key=lambda e: -max(e["cpu_ms"], e["device_ms"]))
            files.write_json(path, {"operations": events[:25]}, force=True)

    return Profile()


def as_encoded(items: list[dict]) -> EncodedExamples:
    """Return tokenised rows in the form of this toolkit's trainer."""
    from linklab.training.answer_loss import EncodedExamples

    encoded = EncodedExamples([], None, 0)
    encoded.items, encoded.n_rows = items, len(items)
    return encoded


def make_ours(job: dict):
    """Return the trainer that the script makes, but with rows in order, and without validation and checkpoints."""
    import finetune_gemma_from_csv
    from linklab.models import load
    from linklab.training import options, training

    words = ["--csv", "x", "--out-dir", job["scratch"], "--base-model", job["folder"], "--mode", job["mode"],
             "--max-steps", str(job["steps"]), "--per-device-batch-size", str(job["batch_size"]),
             "--gradient-accumulation-steps", "1", "--learning-rate", str(job["learning_rate"]),
             "--lr-schedule", "constant_with_warmup", "--warmup-fraction", "0", "--save-steps", str(job["steps"]),
             "--eval-steps", str(job["steps"]), "--report-to", "none", "--seed", str(SEED)]  # fmt: skip
    args = finetune_gemma_from_csv.build_parser().parse_args(words)
    settings = options.read_settings(args).prepare(precision=job["precision"], steps=job["steps"])
    model = training.build_model(settings)
    load.fit_threads(training.count_parameters(model)[1])
    rows, judged = as_encoded(job["rows"]), as_encoded(job["rows"][:1])
    tokenizer = load.load_tokenizer(job["folder"])
    trainer = training.make_trainer(model, tokenizer, rows, judged, settings, {}, Path(job["scratch"]))
    trainer._get_train_sampler = lambda *_: in_order(rows)
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    trainer.args.logging_steps = trainer.state.logging_steps = 1
    return trainer


def in_order(rows):
    """Return a sampler that keeps the order of the rows."""
    from torch.utils.data import SequentialSampler

    return SequentialSampler(rows)


def load_plainly(job: dict):
    """Return the model as users of the other trainers load it: whole, with adapters, or in 4 bits with adapters."""
    import torch
    from linklab.models import load
    from linklab.training import training

    torch.manual_seed(SEED)  # as training.build_model does, so that the adapters start from the same numbers
    compute = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    dtype = torch.float32 if job["mode"] == "full" else compute
    model = load.load_model(job["folder"], dtype=dtype, quantize_4bit=job["mode"] == "qlora")
    load.fit_threads(training.count_parameters(model)[1])
    model.config.use_cache = False
    if job["mode"] == "full":
        return model
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", bias="none", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def common_arguments(job: dict) -> dict:
    """Return the arguments of both other trainers, equal to the settings of make_ours."""
    import torch
    from linklab.training import training

    return {
        "output_dir": job["scratch"] + "/other", "max_steps": job["steps"],
        "per_device_train_batch_size": job["batch_size"], "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch_fused",
        "adam_beta2": training.ADAM_BETA2,
        "bf16": job["precision"] == "bf16", "use_cpu": not torch.cuda.is_available(), "save_strategy": "no",
        "logging_steps": 1, "disable_tqdm": True, "report_to": [], "seed": SEED, "gradient_checkpointing": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }  # fmt: skip


def make_plain(job: dict):
    """Return transformers' Trainer on padded rows whose prompt tokens are masked in the labels."""
    import torch
    from transformers import Trainer, TrainingArguments

    pad_token = load_tokenizer(job).pad_token_id

    def collate(items: list[dict]) -> dict:
        longest = max(len(item["input_ids"]) for item in items)
        ids = torch.full((len(items), longest), pad_token)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for i, item in enumerate(items):
            n, start = len(item["input_ids"]), item["answers"][0][0]
            ids[i, :n], mask[i, :n] = torch.tensor(item["input_ids"]), 1
            labels[i, start:n] = ids[i, start:n]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return in_order(job["rows"])

    arguments = TrainingArguments(**common_arguments(job), remove_unused_columns=False)
    trainer = InOrder(load_plainly(job), arguments, train_dataset=job["rows"], data_collator=collate)
    drop_printer(trainer)
    return trainer


def make_trl(job: dict):
    """Return TRL's SFTTrainer on the tokenised rows with its completion mask, its own collator and loss."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"input_ids": row["input_ids"], "completion_mask": [int(i >= row["answers"][0][0])
             for i in range(len(row["input_ids"]))]} for row in job["rows"]]  # fmt: skip

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, train_dataset=None):
            return in_order(job["rows"])

    arguments = SFTConfig(**common_arguments(job), completion_only_loss=True, max_length=None, packing=False)
    trainer = InOrder(
        load_plainly(job), arguments, train_dataset=Dataset.from_list(rows), processing_class=load_tokenizer(job)
    )
    for parameter in trainer.model.parameters():  # TRL turns the adapters of a 4-bit model to bfloat16
        if parameter.requires_grad and job["precision"] == "fp32":
            parameter.data = parameter.data.float()
    drop_printer(trainer)
    return trainer


def load_tokenizer(job: dict):
    """Return the job's tokenizer."""
    from linklab.models import load

    return load.load_tokenizer(job["folder"])


def drop_printer(trainer) -> None:
    """Remove the callback that prints the trainer's own lines."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def worst_difference(found: list[dict], mode: str) -> float:
    """Return the largest difference between the losses of any two engines at one step; 0 with a single engine."""
    runs = [run["losses"][:5] for run in found if run["mode"] == mode]
    return max(max(losses) - min(losses) for losses in zip(*runs, strict=True))


def middle(found: list[dict], mode: str, engine: str, name: str) -> float:
    """Return the median over the rounds."""
    return statistics.median(run[name] for run in found if run["mode"] == mode and run["engine"] == engine)


def write_page(args: argparse.Namespace, found: list[dict]) -> list[str]:
    """Return the results page as lines."""
    import importlib.metadata

    device = found[0]["device"]
    gpu = device != "cpu"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}"
                         for name in ("torch", "transformers", "peft", "bitsandbytes", "trl"))  # fmt: skip
    machine = device if gpu else bench.describe_machine()
    lines = [
        "# Training speed against transformers' Trainer and TRL", "",
        f"`{' '.join(['python benchmarks/bench_train.py', *args.argv])}`", "",
        f"{machine}; Python {platform.python_version()}, "
        f"{versions}; commit {commit()}; OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'unset')}.", "",
        f"`--base-model {args.model}`, {args.precision}, batches of {args.batch_size} questions of the generated links "
        f"in one order, fused AdamW, gradient checkpointing off for all (it is TRL's default). Medians of "
        f"{args.rounds} interleaved rounds for full and {args.adapter_rounds} for the others; {args.steps} steps each, "
        f"the first not timed. Memory is the peak of {'the GPU' if gpu else 'the process'} up to the last step.", "",
        "## Same loss", "",
    ]  # fmt: skip
    rows = []
    for mode in args.modes:
        first = next(run for run in found if run["mode"] == mode)
        worst = worst_difference(found, mode)
        verdict = "" if worst <= LOSS_TOLERANCE else f" **above {LOSS_TOLERANCE:g}**"
        rows.append([mode, *(f"{loss:.5f}" for loss in first["losses"][:5]), f"{worst:.1e}{verdict}"])
    steps = (f"step {i + 1}" for i in range(min(5, args.steps)))
    lines += bench.table(["mode", *steps, "largest difference between engines"], rows)
    extra = ["tokens/s", "model FLOP utilisation"] if gpu else ["tokens/s"]
    heads = ["mode", "engine", "questions/s", "rounds", "ours is faster by", "peak memory, MB", *extra]
    rows = []
    for mode in args.modes:
        for engine in args.engines:
            rate = middle(found, mode, engine, "rows_a_second")
            rounds = " ".join(f"{run['rows_a_second']:.3g}" for run in found
                              if run["mode"] == mode and run["engine"] == engine)  # fmt: skip
            ratio = middle(found, mode, "ours", "rows_a_second") / rate if "ours" in args.engines else float("nan")
            cells = [mode, ENGINES[engine], f"{rate:.3f}", rounds, "" if engine == "ours" else f"{ratio:.2f} x",
                     f"{middle(found, mode, engine, 'peak_mb'):,.0f}",
                     f"{middle(found, mode, engine, 'tokens_a_second'):,.0f}"]  # fmt: skip
            if gpu:
                peak = next((p[args.precision] for name, p in PEAK_FLOPS.items() if name in device), 0)
                used = middle(found, mode, engine, "flops_a_second")
                cells.append(f"{used / peak:.1%}" if peak else "unknown peak")
            rows.append(cells)
    lines += ["", "## Speed and memory", "", *bench.table(heads, rows, left=2)]
    if "full" in args.modes and "ours" in args.engines:
        lines += ["", "Wanted for full: " + ", ".join(
            f"{ENGINES[engine]} {wanted} x, reached "
            f"{middle(found, 'full', 'ours', 'rows_a_second') / middle(found, 'full', engine, 'rows_a_second'):.2f} x"
            for engine, wanted in TARGETS.items() if engine in args.engines) + "."]  # fmt: skip
    return lines


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
