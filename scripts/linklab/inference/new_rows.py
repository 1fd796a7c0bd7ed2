"""New rows without an answer, for a trained model: read from a table or from the command line, checked, answered."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linklab import cli
from linklab.cli import UserError, say
from linklab.tables.table import Table, TableOptions
from linklab.tables.table_record import KIND_NAMES, lines_of_record
from linklab.tables.understand import number_formats, open_new_rows
from linklab.tasks.examples import Example, legal_choices, lowest_ranked, write_questions
from linklab.tasks.input_checks import INPUTS_FILE, Finding, check_row, read_inputs
from linklab.tasks.row_cells import shown_columns
from linklab.tasks.task import Task
from linklab.validation.row_checks import check_link_rows

if TYPE_CHECKING:
    from linklab.inference.choice_answers import RowScores
    from linklab.inference.row_answers import AskSettings


@dataclasses.dataclass(frozen=True)
class Answered:
    """A row, its error or warning, its prediction, and (one question per choice only) the scores of its choices."""

    example: Example
    finding: Finding
    prediction: dict
    scores: RowScores | None


def needed_columns(task: Task) -> list[str]:
    """Return the columns a row must have: the prompt's columns and those that hold its choices."""
    return list(dict.fromkeys([*task.template.columns, *(t.choices_from for t in task.targets if t.choices_from)]))


def read_rows(csv_name: str, options: TableOptions, task: Task) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return the header and (place, cells by column) of every row; raises a UserError for a missing column."""
    with contextlib.ExitStack() as stack:
        path = Path(csv_name) if csv_name != "-" else stack.enter_context(standard_input())
        name = "standard input" if csv_name == "-" else csv_name
        needed = needed_columns(task)
        table = open_new_rows(path, task.schema, task.table, options, wanted=needed)
        header = table.names
        for column in needed:
            if column not in header:
                folded = {given.casefold(): given for given in header}
                meant = folded.get(column.casefold())
                hint = f"; rename '{meant}' to '{column}'" if meant else ""
                raise UserError(
                    f"{name}:1: no column '{column}', which the model's prompt needs; "
                    f"the columns are: {', '.join(header)}{hint}"
                )
        rows = [(f"{name}:{line}", dict(zip(header, cells, strict=True))) for line, cells in table.rows()]
    if not rows:
        raise UserError(f"{name}: no rows below the header")
    for line in lines_of_record(describe_rows(table, task, Path(name).name, len(rows))):
        say(line)
    return header, rows


def describe_rows(table: Table, task: Task, name: str, n_rows: int) -> dict[str, Any]:
    """Return the record of a table of new rows for `lines_of_record`: its format, and each column's role."""
    needed = needed_columns(task)
    known = {column.name: column for column in task.schema.columns}
    roles = {column: "input" if column in needed else "hidden" for column in table.names}
    id_column = task.schema.one_of_role("id")
    roles |= {id_column.name: "id"} if id_column and id_column.name in roles else {}
    columns = [
        {"name": n, "role": role, "kind": KIND_NAMES[known[n].kind] if n in known else ""} for n, role in roles.items()
    ]
    for target in task.targets:
        kind = f"class, {len(target.choices)} known" if target.choices else target.kind
        columns.append({"name": target.name, "role": "answer", "kind": kind})
    return {
        "file": name, "rows": n_rows, "written": table.dialect.describe(), "columns": columns, "notes": table.notes,
        "left_out": {why: len(lines) for why, lines in table.left_out.items()},
    }  # fmt: skip


@contextlib.contextmanager
def standard_input() -> Iterator[Path]:
    """Yield a temporary file with the content of standard input, because a table is read more than once."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as handle:
        handle.write(sys.stdin.buffer.read())
        handle.flush()
        yield Path(handle.name)


def read_given_row(words: Sequence[str], task: Task) -> dict[str, str]:
    """Return the row that `--set COL=VALUE …` gives: ["levels=-60,-61"] -> {"levels": "[-60,-61]"}."""
    row: dict[str, str] = {}
    formats = number_formats(task.table)
    known = [column.name for column in task.schema.by_role("input", "id", "group")]
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise UserError(f"--set {word}: COLUMN=VALUE is expected; the columns are: {', '.join(known)}")
        if name in row:
            raise UserError(f"--set {name}: duplicate value")
        if task.schema[name].kind.startswith("list_") and not value.startswith("["):
            value = f"[{value}]"
        plain = formats[name].read(value) if name in formats else None  # $2,700 as in the training table
        row[name] = value if plain is None else plain
    missing = [name for name in needed_columns(task) if name not in row]
    if missing:
        raise UserError(f"--set: no value for {', '.join(missing)}, which the model's prompt needs")
    return row


def make_examples(task: Task, rows: Sequence[tuple[str, dict[str, str]]]) -> list[Example]:
    """Return an example without target for every row; raises a UserError with the place of a row without a prompt."""
    id_column = task.schema.one_of_role("id")
    examples = []
    for number, (where, row) in enumerate(rows, start=1):
        try:
            choices = {t.name: legal_choices(t, row) for t in task.targets if t.kind == "class"}
            if empty := next((name for name, texts in choices.items() if not texts), None):
                raise UserError(f"no legal choice for '{empty}'")
            prompt, questions = write_questions(task, row, choices, {}, {})
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        name = row[id_column.name] if id_column and id_column.name in row else f"row-{number}"
        examples.append(Example(name, name, "test", prompt, "", {}, choices, {}, row, questions))
    return examples


def choose_rows(examples: list[Example], max_rows: int | None) -> list[Example]:
    """Return at most `max_rows` rows, the same in every script, in the order of the file."""
    if max_rows is None:
        return examples
    chosen = {id(example) for example in lowest_ranked(examples, max_rows)}
    return [example for example in examples if id(example) in chosen]


def check_rows(model: str, task: Task, examples: Sequence[Example]) -> list[Finding]:
    """Return each row's error and warning: from the validator's rules, and from a comparison with the training rows."""
    seen = read_inputs(model)
    if seen is None:
        say(f"{model}: no {INPUTS_FILE}, so rows are not compared with the training rows")
    present = set.intersection(*(set(example.row) for example in examples)) if examples else set()
    checked = [column.name for column in shown_columns(task) if column.name in present]  # the formula reads these too
    violations = check_link_rows(task.schema, [example.row for example in examples], checked)
    findings = [check_row(example.row, seen) if seen else Finding() for example in examples]
    return [
        dataclasses.replace(finding, error=violation or finding.error)
        for finding, violation in zip(findings, violations, strict=True)
    ]


def answer(asking: AskSettings, task: Task, examples: Sequence[Example]) -> list[Answered]:
    """Return every row with its answer; rows with an error are not given to the model."""
    assert asking.model, "a required option"
    findings = check_rows(asking.model, task, examples)
    asked = [example for example, finding in zip(examples, findings, strict=True) if not finding.error]
    given = iter(ask(asking, task, asked) if asked else [])
    found = []
    prediction: dict
    for example, finding in zip(examples, findings, strict=True):
        if finding.error:
            prediction, scores = {"id": example.id, "answer": None, "error": finding.error, "choices": {}}, None
        else:
            prediction, scores = next(given)
        found.append(Answered(example, finding, prediction, scores))
    return found


def ask(asking: AskSettings, task: Task, examples: Sequence[Example]) -> list[tuple[dict, RowScores | None]]:
    """Return a prediction of every example, and (one question per choice only) the scores of its choices."""
    from linklab.inference import choice_answers, row_answers
    from linklab.models import load

    row_answers.check_rank_by(asking.rank_by, task)
    progress = cli.Progress("ask", len(examples)).at
    with load.quiet_transformers():
        scorer = row_answers.load_scorer(asking)
        if task.ask == "choices":
            scores = choice_answers.score_rows(scorer, examples, task, numbers=asking.numbers, progress=progress)
            return [(choice_answers.to_prediction(e, s, task), s) for e, s in zip(examples, scores, strict=True)]
        given = row_answers.answer_exactly(
            scorer, examples, task, numbers=asking.numbers, rank_by=asking.rank_by or "written",
            max_new_tokens=asking.max_new_tokens, progress=progress,
        )  # fmt: skip
        return [(prediction, None) for prediction in given]
