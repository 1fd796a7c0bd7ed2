"""Output of predict.py: a CSV of answers beside the rows' own cells, or one row's answer as a small table."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import TextIO

from linklab import files
from linklab.cli import UserError, say
from linklab.inference.new_rows import Answered
from linklab.tasks.task import Target, Task


def write_answers(handle: TextIO, task: Task, header: Sequence[str], answered: Sequence[Answered]) -> None:
    """Write the answers, each followed by its row's own cells; own columns named like an answer column get `_given`."""
    columns = ["id", *(name for target in task.targets for name in answer_columns(task, target)), "error", "warning"]
    own = {name: f"{name}_given" if name in columns else name for name in header}
    id_column = task.schema.one_of_role("id")
    if id_column:
        own.pop(id_column.name, None)  # already written as `id`
    writer = files.SheetWriter(handle)
    writer.writerow(header := [*columns, *own.values()])
    for one in answered:
        cells = {shown: one.example.row[name] for name, shown in own.items()}
        row = to_row(one, task) | {"warning": one.finding.warning} | cells
        writer.writerow(row.get(name, "") for name in header)


def answer_columns(task: Task, target: Target) -> list[str]:
    """Return the columns that hold the answer to one target."""
    if target.kind != "class":
        return [target.name]
    ranked = [f"{target.name}_ranking"] if task.ask == "choices" else []
    return [target.name, f"{target.name}_probability", *ranked]


def to_row(one: Answered, task: Task) -> dict[str, str]:
    """Return the answer cells of a row.

    The probability is that of the choice among the row's legal choices. The ranking is JSON: [choice, expected worth],
    best first, as in `[["5775",588],["5530",431]]`.
    """
    prediction = one.prediction
    row = {"id": prediction["id"], "error": prediction["error"] or ""}
    for target in task.targets:
        row[target.name] = (prediction["answer"] or {}).get(target.name) or ""
        ranking = prediction["choices"].get(target.name)
        if ranking and ranking[0][1] is not None:
            row[f"{target.name}_probability"] = f"{math.exp(ranking[0][1]):.4f}"
        if ranking and one.scores is not None:
            worths = dict(zip(one.scores.choices, one.scores.expected, strict=True))
            shown = [[choice, None if math.isnan(worths[choice]) else float(f"{worths[choice]:.4g}")]
                     for choice, _ in ranking]  # fmt: skip
            row[f"{target.name}_ranking"] = json.dumps(shown, separators=(",", ":"))
    return row


def say_written(out: str, answered: Sequence[Answered]) -> None:
    """Say how many rows were written, and how many have an error or a warning."""
    failed = sum(one.prediction["error"] is not None for one in answered)
    unusual = sum(bool(one.finding.warning) for one in answered)
    say(
        f"wrote {out}: {len(answered):,} rows"
        + (f", {failed:,} of them without a full answer (column error)" if failed else "")
        + (f", {unusual:,} unlike the training rows (column warning)" if unusual else "")
    )


def format_answer(one: Answered, task: Task, rules: Mapping[str, Sequence[float]]) -> str:
    """Return one row's answer as a small table: every choice, best first, or every target.

    `rules` maps a rule's name to the worth it gives each choice (`link_rules.rule_worths`).
    """
    out = io.StringIO()
    if one.prediction["error"]:
        raise UserError(one.prediction["error"])
    if one.scores is None:
        lines: list[tuple[str, ...]] = [
            ("target", "answer"),
            *((name, text or "") for name, text in one.prediction["answer"].items()),
        ]
    else:
        target, unit = task.choice_target, task.answer_column.unit
        chances = dict(one.prediction["choices"][target.name])
        place = {choice: i for i, choice in enumerate(one.scores.choices)}
        lines = [(f"{target.name}", f"expected {unit}".strip(), "best with probability", *rules)]
        for choice, chance in chances.items():
            shown = "" if chance is None else f"{100 * math.exp(chance):.0f} %"
            values = [f"{worths[place[choice]]:.4g}" for worths in rules.values()]
            lines.append((choice, f"{one.scores.expected[place[choice]]:.0f}", shown, *values))
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), file=out)
    if one.scores is not None:
        print(compare_with_rules(one, task, rules), file=out)
    if one.finding.warning:
        print(f"warning: {one.finding.warning}", file=out)
    return out.getvalue().rstrip("\n")


def compare_with_rules(one: Answered, task: Task, rules: Mapping[str, Sequence[float]]) -> str:
    """Return a line with the model's choice, and whether each rule agrees with it."""
    assert one.scores, "only choices are compared"
    answer = one.prediction["answer"]
    texts = [f"{name} = {text}" for name, text in answer.items()]
    choice = answer[task.choice_target.name]
    others = {name: one.scores.choices[max(range(len(w)), key=w.__getitem__)] for name, w in rules.items()}
    called = {name: "the formula" if name == "formula" else f"the rule {name}" for name in others}
    says = [f"{called[name]} agrees" if other == choice else f"{called[name]} takes {other}"
            for name, other in others.items()]  # fmt: skip
    return "; ".join([", ".join(texts), *says])
