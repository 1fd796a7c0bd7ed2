"""Ask a fine-tuned model about new rows.

model folder + table of new rows -> answers.csv (id, answer and probability per target, error, warning, the input)

    python scripts/predict.py --model runs/lora/model --csv new_links.csv --out answers.csv

The table needs the columns the model's prompt shows; targets and hidden columns may be missing. `--csv -` reads
standard input, `--out -` writes standard output. The answer to a single row is printed as a table, too. Such a row can
be given in the command:

    python scripts/predict.py --model runs/lora/model --set regulatory_domain=FCC channel_bandwidth_mhz=80 …
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from linklab import cli, files
from linklab.cli import UserError, say
from linklab.manifest import check_out_files, manifest_beside, write_manifest

if TYPE_CHECKING:
    from linklab.inference.choice_answers import RowScores
    from linklab.inference.row_answers import AskSettings
    from linklab.tables.table import Table, TableOptions
    from linklab.tasks.examples import Example
    from linklab.tasks.input_checks import Finding
    from linklab.tasks.task import Target, Task


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which rows are answered by which model, and where the answers go."""

    csv: str | None
    given_row: tuple[str, ...] | None  # COL=VALUE of a row in the command, instead of a table
    table: TableOptions
    max_rows: int | None
    out: str | None
    force: bool
    model: str
    asking: AskSettings
    argv: tuple[str, ...]


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--csv", metavar="FILE", help="rows to answer: any table that convert reads; `-` reads standard input"
    )
    source.add_argument(
        "--set",
        dest="given_row",
        nargs="+",
        metavar="COL=VALUE",
        help="one row to answer, given here; a list as 5210,5530,5775 or [5210,5530,5775]",
    )
    cli.add_max_rows_option(data, "answer at most N rows")
    cli.add_table_options(data, "with --csv: ", only=("--delimiter", "--decimal", "--encoding", "--drop-bad-rows"))
    output = parser.add_argument_group("Output")
    output.add_argument("--out", metavar="FILE", help="CSV to write; `-` writes standard output (optional with --set)")
    output.add_argument("--force", action="store_true", help="replace an existing file")
    model = parser.add_argument_group("Model")
    model.add_argument("--model", required=True, metavar="DIR", help="model folder finetune wrote (it holds task.json)")
    cli.add_asking_options(model)
    return parser


@dataclasses.dataclass(frozen=True)
class Answered:
    """A row, what was found wrong with it, its prediction, and with one question per choice the choices' scores."""

    example: Example
    finding: Finding
    prediction: dict
    scores: RowScores | None


def run(args: argparse.Namespace) -> None:
    from linklab.inference.row_answers import AskSettings
    from linklab.tables.table import TableOptions

    asking, table = AskSettings.from_args(args), TableOptions.from_args(args)
    settings = cli.read_settings(Settings, args, asking=asking, table=table)
    if settings.csv and not settings.out:
        raise UserError("--out is needed with --csv: the CSV to write, or - for standard output")
    if settings.out and settings.out != "-":
        reads = [settings.csv, settings.model, asking.base_model]
        check_out_files(
            [settings.out], manifest_beside(settings.out), script=__file__, force=settings.force, reads=reads
        )
    task = read_task(settings.model)
    if settings.given_row:
        rows = [("--set", read_set(settings.given_row, task))]
        header = list(rows[0][1])
    else:
        assert settings.csv is not None, "one of the two is required"
        header, rows = read_rows(settings.csv, table, task)
    examples = choose_rows(make_examples(task, rows), settings.max_rows)
    answered = answer(asking, task, examples)
    one_answer = len(answered) == 1 and not answered[0].prediction["error"] and settings.out != "-"
    if settings.given_row or one_answer:
        print(format_answer(answered[0], task))
    if settings.out:
        inputs: dict[str, int | None] = {}
        if settings.csv and settings.csv != "-":
            inputs[settings.csv] = len(answered)
        inputs |= {settings.model: None} if Path(settings.model).is_dir() else {}
        with open_out(
            settings.out, force=settings.force, argv=settings.argv, inputs=inputs, rows=len(answered)
        ) as handle:
            write_answers(handle, task, header, answered)
        say_written(settings.out, answered)


def read_task(model: str) -> Task:
    """Return the task a model was trained for."""
    from linklab.tasks.task import Task
    from linklab.tasks.training_record import read_record

    path = Path(model) / "task.json"
    if not path.exists():
        raise UserError(f"{model}: not a fine-tuned model folder: task.json is missing; give the folder finetune wrote")
    read_record(model)  # names a file that changed since the training
    return Task.from_dict(files.read_json(path))


def needed_columns(task: Task) -> list[str]:
    """Return the columns a row must have: those the prompt shows, and those that hold its choices."""
    return list(dict.fromkeys([*task.template.columns, *(t.choices_from for t in task.targets if t.choices_from)]))


def read_rows(csv_name: str, options: TableOptions, task: Task) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Return the header and (place, cells by column) of every row; raises a UserError for a missing column."""
    from linklab.tables.table_record import lines_of_record
    from linklab.tables.understand import open_new_rows

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
                    f"{name}:1: no column '{column}', which the model's prompt shows; "
                    f"the columns are: {', '.join(header)}{hint}"
                )
        rows = [(f"{name}:{line}", dict(zip(header, cells, strict=True))) for line, cells in table.rows()]
    if not rows:
        raise UserError(f"{name}: no rows below the header")
    for line in lines_of_record(describe_rows(table, task, Path(name).name, len(rows))):
        say(line)
    return header, rows


def describe_rows(table: Table, task: Task, name: str, n_rows: int) -> dict[str, Any]:
    """Return what was understood of new rows, as `lines_of_record` prints it: what the model is shown and answers."""
    from linklab.tables.table_record import KIND_NAMES

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
    """Give a file with what standard input holds: the reader goes through a table more than once."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as handle:
        handle.write(sys.stdin.buffer.read())
        handle.flush()
        yield Path(handle.name)


def read_set(words: Sequence[str], task: Task) -> dict[str, str]:
    """Return the row that `--set COL=VALUE …` gives: ["rssi_dbm=-60,-61"] -> {"rssi_dbm": "[-60,-61]"}."""
    from linklab.tables.understand import number_formats

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
        plain = formats[name].read(value) if name in formats else None  # $2,700 as the training rows had it
        row[name] = value if plain is None else plain
    missing = [name for name in needed_columns(task) if name not in row]
    if missing:
        raise UserError(f"--set: no value for {', '.join(missing)}, which the model's prompt shows")
    return row


def make_examples(task: Task, rows: Sequence[tuple[str, dict[str, str]]]) -> list[Example]:
    """Return an example without target for every row; a UserError names the place of one that cannot be asked."""
    from linklab.tasks.examples import Example, legal_choices, write_questions

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
    """Return the rows that --max-rows chooses, in the order of the file."""
    from linklab.tasks.examples import lowest_ranked

    if max_rows is None:
        return examples
    chosen = {id(example) for example in lowest_ranked(examples, max_rows)}
    return [example for example in examples if id(example) in chosen]


def check_rows(model: str, task: Task, examples: Sequence[Example]) -> list[Finding]:
    """Return what is wrong with each row: by the validator's rules, and compared with the training rows."""
    from linklab.tasks.input_checks import INPUTS_FILE, Finding, check_row, read_inputs
    from linklab.tasks.row_cells import shown_columns
    from linklab.validation.row_checks import check_link_rows

    seen = read_inputs(model)
    if seen is None:
        say(f"{model}: no {INPUTS_FILE}, so rows are not compared with the training rows")
    there = set.intersection(*(set(example.row) for example in examples)) if examples else set()
    judged = [column.name for column in shown_columns(task) if column.name in there]  # what the formula reads too
    violations = check_link_rows(task.schema, [example.row for example in examples], judged)
    findings = [check_row(example.row, seen) if seen else Finding() for example in examples]
    return [
        dataclasses.replace(finding, error=violation or finding.error)
        for finding, violation in zip(findings, violations, strict=True)
    ]


def answer(asking: AskSettings, task: Task, examples: Sequence[Example]) -> list[Answered]:
    """Return every row with its answer; a row with an error is not asked."""
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
    """Return a prediction of every example, and the scores of its choices where they are asked one by one."""
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


@contextlib.contextmanager
def open_out(
    out: str, *, force: bool, argv: Sequence[str], inputs: dict[str, int | None], rows: int
) -> Iterator[TextIO]:
    """Open the file to write, with a manifest beside it, or standard output for `-`."""
    if out == "-":
        yield sys.stdout
        return
    with files.FileSet(force=force) as together:
        with together.open(out) as handle:
            yield handle
        write_manifest(
            manifest_beside(out), together=together, script=__file__, argv=argv, seed=None, inputs=inputs,
            outputs={out: rows},
        )  # fmt: skip


def say_written(out: str, answered: Sequence[Answered]) -> None:
    """Say how many rows were written, and how many have an error or a warning."""
    failed = sum(one.prediction["error"] is not None for one in answered)
    unlike = sum(bool(one.finding.warning) for one in answered)
    say(
        f"wrote {out}: {len(answered):,} rows"
        + (f", {failed:,} of them without a full answer (column error)" if failed else "")
        + (f", {unlike:,} unlike the training rows (column warning)" if unlike else "")
    )


def write_answers(handle: TextIO, task: Task, header: Sequence[str], answered: Sequence[Answered]) -> None:
    """Write the answers, each followed by its row's own cells; a cell named as an answer column gets `_given`."""
    columns = ["id", *(name for target in task.targets for name in answer_columns(task, target)), "error", "warning"]
    own = {name: f"{name}_given" if name in columns else name for name in header}
    id_column = task.schema.one_of_role("id")
    if id_column:
        own.pop(id_column.name, None)  # it is the id
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

    The probability is that of the choice among the row's legal ones; the ranking is JSON, best first, each choice with
    its expected worth: `[["5775",588],["5530",431]]`.
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


def format_answer(one: Answered, task: Task) -> str:
    """Return one row's answer as a small table: every choice, best first, or every target."""
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
        rules = rule_worths(one.example, task)
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


def rule_worths(example: Example, task: Task) -> Mapping[str, Sequence[float]]:
    """Return what the simple rule and the link formula give for each choice; {} where the row is not a complete link.

    snr_and_busy is in bit/s per Hz (capacity by SNR, times the time left free), formula in Mbit/s.
    """
    from linklab.baselines.link_rules import visible_columns
    from linklab.baselines.problem import Problem, is_link_task
    from linklab.links import pickers
    from linklab.links.links import RADIO_COLUMNS

    if not set(example.row) >= RADIO_COLUMNS or not is_link_task(task):
        return {}
    columns = visible_columns(Problem([], [example], task))
    return {
        "snr_and_busy": pickers.pick("snr_and_busy", columns)[0].tolist(),
        "formula": pickers.formula_throughput(columns)[0].tolist(),
    }


def compare_with_rules(one: Answered, task: Task, rules: Mapping[str, Sequence[float]]) -> str:
    """Return a line that says which choice the model takes, and whether the rules take it too."""
    assert one.scores, "only choices are compared"
    answer = one.prediction["answer"]
    texts = [f"{name} = {text}" for name, text in answer.items()]
    choice = answer[task.choice_target.name]
    others = {name: one.scores.choices[max(range(len(w)), key=w.__getitem__)] for name, w in rules.items()}
    called = {name: "the formula" if name == "formula" else f"the rule {name}" for name in others}
    says = [f"{called[name]} agrees" if other == choice else f"{called[name]} takes {other}"
            for name, other in others.items()]  # fmt: skip
    return "; ".join([", ".join(texts), *says])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
