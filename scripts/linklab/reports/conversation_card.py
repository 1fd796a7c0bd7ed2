"""The data card of converted rows: its data files, the content of a line, and rows per split."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import DatasetCardData

from linklab.reports.markdown import code, escape, fence, row
from linklab.tasks.jsonl import CardFeatures
from linklab.tasks.task import Task


def write_card(
    task: Task, features: CardFeatures, names: dict[str, dict[str, int]], rows: dict[str, int], csv_path: Path
) -> str:
    """Return the data card. Its `configs` name the data files, so that no other file of the folder is loaded."""
    # load_dataset fails on a split without rows
    files = [{"split": split, "path": list(shards)} for split, shards in names.items() if shards]
    head = DatasetCardData(
        task_categories=["text-generation"], configs=[{"config_name": "default", "data_files": files}],
        dataset_info=features.dataset_info(),
    )  # fmt: skip
    targets = ", ".join(f"{code(t.name)} ({t.kind}{escape(t.unit and ', ' + t.unit)})" for t in task.targets)
    shown = ", ".join(map(code, task.template.columns))
    form = " as a JSON object" if task.answer_format == "json" else ""
    content = f"Each line holds one row: the prompt shows {shown}; the answer holds {targets}{form}."
    if task.ask == "choices":
        unit = f"{task.answer_unit:g} {task.answer_column.unit}".strip()
        content = (
            f"Each row has one conversation per choice of {code(task.choice_target.name)}, one per line: the prompt "
            f"shows {shown}; the answer is the worth of this choice, {code(task.answer_column.name)} in units of "
            f"{escape(unit)}."
        )
    return "\n".join([
        "---", head.to_yaml(), "---", "", f"# Conversations made from {escape(csv_path.name)}", "",
        content, "",
        "| split | rows |", "|---|---|", *(row((split, f"{n:,}")) for split, n in rows.items()), "",
        "Rows of one group (a site, or equal prompts if there are no groups) are never in two splits.", "",
        "Prompt template:", "", fence(task.template.text), "",
    ])  # fmt: skip
