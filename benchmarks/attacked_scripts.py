"""Every script that writes files: arguments that make it quick, and the files it may change; for campaign_kills.py."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bench import SCRIPTS

FORMATS = ("f32", "f16", "q8_0")
FAULTY = {  # a notebook as Colab saves it, which fix_notebook_widgets.py fixes
    "cells": [{"cell_type": "markdown", "metadata": {}, "source": ["a"]}] * 2000,
    "metadata": {"widgets": {"application/vnd.jupyter.widget-state+json": {"1": {"model_name": "A"}}}},
    "nbformat": 4, "nbformat_minor": 0,
}  # fmt: skip
BOOKS = 12
LINK = ("--signal-dbm -60 --current-channel-mhz 5180 --noise-dbm -9{n} --regulatory-domain FCC --radio-standard ac "
        "--channel-bandwidth-mhz 40 --link-distance-m 4980 --antenna-gain-dbi 23 --tx-power-dbm 25")  # fmt: skip


def torn_checkpoints(place: Path, hub: object) -> list[str]:
    """Return the incomplete checkpoints on the drive, where only complete ones may appear."""
    from linklab.training import checkpoints

    return [f"{path} is torn" for path in checkpoints.list_all(place / "drive") if not checkpoints.is_complete(path)]


def half_fixed_notebooks(place: Path, hub: object) -> list[str]:
    """Return the notebooks that are neither unchanged nor completely fixed."""
    from linklab.notebooks.fixing import fix

    whole = {faulty_notebook(), fix(faulty_notebook(), widgets="keep", repair=True).text}
    return [f"{path} is half fixed" for path in (place / "books").glob("*.ipynb") if path.read_text() not in whole]


def part_of_an_upload(place: Path, hub: object) -> list[str]:
    """Return the faults in the imitated Hub's repositories: each must be empty or hold one complete set."""
    found = []
    for name, repo in hub.repos.items():  # type: ignore[attr-defined]
        kept = {path: value if isinstance(value, str) else hashlib.sha256(value).hexdigest()
                for path, value in repo["files"].items()}  # fmt: skip
        if not kept:
            continue
        manifest = repo["files"].get("manifest.json") or (place / "in" / "jsonl" / "manifest.json").read_bytes()
        for entry in json.loads(manifest)["outputs"]:
            if entry["path"] != "README.md" and kept.get(entry["path"]) != entry["sha256"]:
                found.append(f"{name}: {entry['path']} is missing or another set's")
    return found


@dataclasses.dataclass(frozen=True)
class Command:
    """One script with its arguments; `{n}` changes per run, so that each run has another result.

    `own`: folders it may write. `foreign`: a user's files in them. `stays`: the file that exists after every kill once
    a run has finished. `resumes`: the next run continues a killed one. `text`: an option that takes any text, for a
    planted secret. `check`: finds faults that hashes do not show.
    """

    script: str
    words: str
    own: tuple[str, ...] = ("out",)
    foreign: tuple[str, ...] = ()
    stays: str = "out/manifest.json"
    resumes: bool = False
    text: str = ""
    check: Callable[[Path, object], list[str]] | None = None

    def argv(self, n: int) -> list[str]:
        """Return the script and arguments of run `n`."""
        words = self.words.format(n=n, digit=n % 10, format=FORMATS[n % 3]).split()
        return [str(SCRIPTS / self.script), *words]


COMMANDS = {
    "generate": Command("generate_synthetic_large.py", "--n-samples 400 --seed {n} --out-dir out --force"),
    "generate, drive": Command("generate_synthetic_large.py", "--n-samples 200 --seed {n} --out-dir out "
                               "--upload-to-drive drive/set --force", own=("out", "drive"),
                               foreign=("drive/notes.txt", "drive/other/manifest.json")),
    "generate, Hub": Command("generate_synthetic_large.py", "--n-samples 200 --seed {n} --out-dir out --upload-to-hf "
                             "me/made --force", check=part_of_an_upload),
    "smoke": Command("generate_synthetic_smoke.py", "--seed {n} --out-dir out --force"),
    "validate": Command("validate_dataset.py", "in/links.csv --max-examples {n} --report out/r.json --violations "
                        "out/v.csv --force", foreign=("out/notes.txt", "out/.r.json.mine"),
                        stays="out/r.manifest.json"),
    "convert": Command("convert_csv_to_jsonl.py", "--csv in/links.csv --split-seed {n} --out-dir out --force"),
    "baselines": Command("run_baselines.py", "--csv in/links.csv --max-rows 10 --seed {n} --only random,most_frequent "
                         "--out-dir out --force"),
    "finetune": Command("finetune_gemma_from_csv.py", "--data in/jsonl --base-model tiny --max-steps 6 --save-steps 2 "
                        "--max-rows 32 --seed {n} --report-to none --out-dir out --force --resume auto", resumes=True),
    "finetune, drive": Command("finetune_gemma_from_csv.py", "--data in/jsonl --base-model tiny --max-steps 6 "
                               "--save-steps 2 --max-rows 32 --seed {n} --report-to none --out-dir out --drive-dir "
                               "drive --force --resume auto", own=("out", "drive"), resumes=True,
                               foreign=("drive/notes.txt", "drive/other/model.bin"), check=torn_checkpoints),
    "evaluate": Command("evaluate_model.py", "--data in/jsonl --model in/run/model --max-rows {digit} --out-dir out "
                        "--force", text="--name {text}"),
    "compare": Command("compare_results.py", "in/baselines --seed {n} --out-dir out --force"),
    "predict": Command("predict.py", "--csv in/links.csv --model in/run/model --max-rows {digit} --out out/a.csv "
                       "--force", foreign=("out/notes.txt",), stays="out/a.manifest.json"),
    "survey": Command("import_survey.py", f"--survey in/scan.json {LINK} --out out/s.csv --force".replace(
                      "9{n}", "9{digit}"), foreign=("out/notes.txt",), stays="out/s.manifest.json"),
    "curve": Command("run_learning_curve.py", "--data in/jsonl --base-model tiny --sizes 16 --seeds {n} --test-rows 8 "
                     "--no-baselines --retry-failed --out-dir out -- --max-steps 2", stays="", resumes=True),
    "sweep": Command("run_sweep.py", "--data in/jsonl --base-model tiny --max-rows 16 --validation-rows 8 --trials {n} "
                     "--space learning_rate=log:1e-4:1e-2 --retry-failed --out-dir out -- --max-steps 2", stays="",
                     resumes=True),
    "export": Command("export_model.py", "--model in/small --format {format} --out-dir out --force"),
    "notebooks": Command("fix_notebook_widgets.py", "books --repair", own=("books",), foreign=("books/notes.txt",),
                         stays="", check=half_fixed_notebooks),
    "push": Command("push_to_hub.py", "in/jsonl --repo me/it{n} --license cc-by-4.0", stays="",
                    check=part_of_an_upload),
    "demo": Command("run_demo.py", "--base-model tiny --max-rows 24 --test-rows 8 --seed {n} --out-dir out --force",
                    stays="", resumes=True),
}  # fmt: skip


def faulty_notebook() -> str:
    """Return a notebook that has to be fixed."""
    return json.dumps(FAULTY, indent=1)


PARTS = {  # inputs of the scripts, in the order of creation: file or folder, and the command
    "in/links.csv": "generate_synthetic_large.py --n-samples 400 --seed 1 --out-dir in",
    "in/jsonl": "convert_csv_to_jsonl.py --csv in/links.csv --out-dir in/jsonl",
    "in/baselines": "run_baselines.py --csv in/links.csv --max-rows 10 --only random,most_frequent "
                    "--out-dir in/baselines",
    "in/run": "finetune_gemma_from_csv.py --data in/jsonl --base-model tiny --max-steps 1 --max-rows 32 "
              "--report-to none --out-dir in/run",
}  # fmt: skip
MADE_FROM = {"in/jsonl": ("in/links.csv",), "in/baselines": ("in/links.csv",), "in/run": ("in/links.csv", "in/jsonl")}
LIGHT = ("generate_synthetic_large.py", "generate_synthetic_smoke.py", "validate_dataset.py", "convert_csv_to_jsonl.py",
         "import_survey.py", "fix_notebook_widgets.py", "push_to_hub.py")  # need no PyTorch  # fmt: skip


def prepare(place: Path, names: Iterable[str]) -> None:
    """Create the inputs of these commands in `place`/in; existing ones stay."""
    (place / "in").mkdir(exist_ok=True, parents=True)
    needed = {part for name in names for part in PARTS if part in COMMANDS[name].words.split()}
    needed |= {"in/run"} if any("in/run/model" in COMMANDS[name].words for name in names) else set()
    needed |= {other for part in needed for other in MADE_FROM.get(part, ())}
    for part, command in PARTS.items():
        if part in needed and not (place / part).exists():
            script, *words = command.split()
            subprocess.run([sys.executable, str(SCRIPTS / script), *words], cwd=place, check=True, capture_output=True)
    (place / "in" / "scan.json").write_text(
        '[{"channel": 36, "utilization": 12, "interference": -93}, {"channel": 40, "utilization": 4}]'
    )
    if "export" in names and not (place / "in" / "small").exists():
        prepare_export(place / "in" / "small")


def prepare_export(folder: Path) -> None:
    """Save a Gemma 3 with random weights (8 million) and the real vocabulary, which a GGUF file needs."""
    from linklab.models import load, tiny

    tokenizer = load.load_tokenizer("embedded")
    model = tiny.build_model(tokenizer, vocab_size=262144, hidden_size=32, intermediate_size=32, num_hidden_layers=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def damage_notebooks(place: Path) -> None:
    """Make the notebooks faulty again, for the next run to fix."""
    if (place / "books").exists():
        for number in range(BOOKS):
            (place / "books" / f"{number}.ipynb").write_text(faulty_notebook())


def prepare_place(place: Path, command: Command) -> None:
    """Create the folders of one attack, and a user's own files in them."""
    for name in ("notes.txt", ".out.mine", "out.old/kept.txt", *command.foreign):
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_text("a person's own file beside the outputs")
    for name in command.own:
        (place / name).mkdir(exist_ok=True)
    damage_notebooks(place)
