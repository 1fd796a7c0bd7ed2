"""Train on one data set with this toolkit and, on its export, with TRL; score both models here in one table.

table -> DIR/{set,ours,trl,...,report}, benchmarks/results/trl.md

    python benchmarks/compare_trl.py --csv animals.csv --target-field kind --out-dir runs/trl

`convert_csv_to_jsonl.py --export-for trl` writes TRL's input. TRL's SFTTrainer and finetune_gemma_from_csv.py then
train with the same settings and number of steps, and evaluate_model.py scores both models and the base model on the
same unseen rows. Finished stages are skipped when the command is run again.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

import bench
from linklab import cli, files, pipeline
from linklab.manifest import MANIFEST, commit
from linklab.training.training import ADAM_BETA2

RANK, ALPHA, SEED = 16, 32, 0  # of the adapters, with --mode lora


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__, "trl.md")
    parser.add_argument("--csv", required=True, metavar="FILE", help="the table")
    parser.add_argument("--target-field", required=True, metavar="COL", help="the column to predict")
    parser.add_argument("--base-model", default="embedded", metavar="NAME", help="embedded, tiny or a folder")
    parser.add_argument("--mode", choices=("lora", "full"), default="lora", help="what is trained")
    parser.add_argument("--steps", type=cli.positive_int, default=60, metavar="N", help="optimizer steps")
    parser.add_argument("--batch-size", type=cli.positive_int, default=8, metavar="N", help="rows per step")
    parser.add_argument("--learning-rate", type=float, default=5e-4, metavar="X", help="peak learning rate")
    parser.add_argument("--max-rows", type=cli.positive_int, default=100, metavar="N", help="unseen rows scored")
    parser.add_argument("--out-dir", type=Path, required=True, metavar="DIR", help="folder of all stages")
    return parser


def run(args: argparse.Namespace) -> None:
    folder, set_dir = args.out_dir, args.out_dir / "set"
    data = ["--data", str(set_dir)]
    lora = ["--lora-rank", str(RANK), "--lora-alpha", str(ALPHA)] if args.mode == "lora" else []
    source = ["--csv", args.csv, "--target-field", args.target_field]
    stages = [
        ("set", "convert_csv_to_jsonl.py", [*source, "--export-for", "trl"]),
        ("ours", "finetune_gemma_from_csv.py",
         [*data, "--base-model", args.base_model, "--mode", args.mode, "--fp32", "--max-steps", str(args.steps), *lora,
          "--learning-rate", str(args.learning_rate), "--per-device-batch-size", str(args.batch_size),
          "--report-to", "none", "--seed", str(SEED)]),
    ]  # fmt: skip
    make(folder, stages)
    if not (folder / "trl" / "seconds.json").exists():
        train_with_trl(set_dir / "exports" / "trl" / "train.jsonl", folder / "trl", args)
    scored = {"base": (args.base_model, "base"), "ours": (str(folder / "ours" / "model"), "tuned"),
              "TRL": (str(folder / "trl"), "tuned")}  # fmt: skip
    stages = [
        (f"scored-{name}", "evaluate_model.py",
         ["--model", model, *data, "--max-rows", str(args.max_rows), "--fp32", "--name", name, "--role", role])
        for name, (model, role) in scored.items()
    ]  # fmt: skip
    stages.append(("baselines", "run_baselines.py", [*data, "--max-rows", str(args.max_rows)]))
    names = [str(folder / name) for name, *_ in stages]
    stages.append(("report", "compare_results.py", [*names, "--candidate", "scored-ours", "--reference", "scored-TRL"]))
    make(folder, stages)
    write_page(args, folder)


def make(folder: Path, stages: list[tuple[str, str, list[str]]]) -> None:
    """Run each unfinished stage in its own process."""
    for name, script, words in stages:
        words = [*words, "--out-dir", str(folder / name)]
        stage = pipeline.Stage(name, "", script, words, folder / name / MANIFEST)
        if pipeline.stale_reason(stage) and (code := pipeline.call([sys.executable, *pipeline.command_of(stage)])):
            raise cli.UserError(f"{script} ended with exit code {code}")


def train_with_trl(lines: Path, out: Path, args: argparse.Namespace) -> None:
    """Train with TRL on prompt-completion conversations, as its documentation shows."""
    from datasets import load_dataset
    from linklab.models import load
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    base = load.resolve(args.base_model)
    arguments = SFTConfig(
        output_dir=str(out / "checkpoints"), max_steps=args.steps, per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate, lr_scheduler_type="cosine", warmup_steps=round(0.05 * args.steps),
        report_to=[], save_strategy="no", adam_beta2=ADAM_BETA2, bf16=False, gradient_checkpointing=False,
        use_cpu=load.device_name() == "cpu", seed=SEED, logging_steps=10, max_length=512,
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    adapters = None
    if args.mode == "lora":
        adapters = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = load_dataset("json", data_files=str(lines), split="train")
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = SFTTrainer(base, arguments, train_dataset=rows, processing_class=tokenizer, peft_config=adapters)
    trainer.train()
    trainer.save_model(str(out))
    files.write_json(out / "seconds.json", {"seconds": trainer.state.log_history[-1]["train_runtime"]}, force=True)


def write_page(args: argparse.Namespace, folder: Path) -> None:
    """Write the page: settings, table and verdict."""
    ours = files.read_json(folder / "ours" / "metrics.json")["seconds"]
    theirs = files.read_json(folder / "trl" / "seconds.json")["seconds"]
    report = (folder / "report" / "comparison.md").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(report) if line.startswith("|"))
    table = report[first : next(i for i, line in enumerate(report[first:], first) if not line.startswith("|"))]
    verdict = files.read_json(folder / "report" / MANIFEST)["extra"]["verdict"]
    bench.write_page(args.out, [
        "# A model that TRL trained, scored here beside ours", "",
        f"`python benchmarks/compare_trl.py`: {args.base_model}, {args.mode}, {args.steps} steps of {args.batch_size} "
        f"rows, learning rate {args.learning_rate:g}, float32. TRL {version('trl')} trained on `exports/trl` for "
        f"{theirs:,.0f} s, this toolkit on the same set for {ours:,.0f} s. `evaluate_model.py` scored both folders on "
        f"the same unseen rows.",
        f"Machine: {bench.describe_machine()}, beside other work. Commit {commit()}.", "",
        *table, "", "\n\n".join(verdict.splitlines()), "",
    ])  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
