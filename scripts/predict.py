"""Ask a fine-tuned model about new rows, whose answers nobody knows yet.

model folder + CSV of new rows -> answers.csv (id, an answer and its probability a target, error, warning)

    python scripts/predict.py --model runs/lora/model --csv new_links.csv --out answers.csv

The CSV needs the columns the model's prompt shows; targets and hidden columns may be missing.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

from linklab import cli, files
from linklab.cli import UserError, say
from linklab.manifest import add_manifest, check_out_files, manifest_beside

if TYPE_CHECKING:
    from linklab.tasks.examples import Example
    from linklab.tasks.input_checks import Finding


def build_parser():
    parser = cli.make_parser(__doc__)
    data = parser.add_argument_group("Input")
    data.add_argument("--csv", required=True, metavar="FILE", help="rows to answer")
    data.add_argument(
        "--max-rows",
        type=cli.positive_int,
        metavar="N",
        help="answer at most N rows, the same in every script; all when left out",
    )
    output = parser.add_argument_group("Output")
    output.add_argument("--out", required=True, metavar="FILE", help="CSV to write")
    output.add_argument("--force", action="store_true", help="replace an existing file")
    model = parser.add_argument_group("Model")
    model.add_argument("--model", required=True, metavar="DIR", help="model folder finetune wrote (it holds task.json)")
    cli.add_asking_options(model)
    return parser


def run(args) -> None:
    path = files.require_file(args.csv)
    beside, reads = manifest_beside(args.out), [args.csv, args.model, args.base_model]
    check_out_files([args.out], beside, script=__file__, force=args.force, reads=reads)
    task = read_task(args.model)
    examples = read_questions(path, task, args.max_rows)
    findings = check_inputs(args.model, examples)
    asked = [example for example, finding in zip(examples, findings, strict=True) if not finding.error]
    given = iter(ask(args, task, asked) if asked else [])
    answers = [
        no_answer(example, finding.error) if finding.error else next(given)
        for example, finding in zip(examples, findings, strict=True)
    ]
    columns = [
        name for t in task.targets for name in (t.name, *([f"{t.name}_probability"] if t.kind == "class" else []))
    ]
    with files.FileSet(force=args.force) as together:
        with together.open(args.out) as handle:
            writer = csv.DictWriter(handle, ["id", *columns, "error", "warning"], lineterminator="\n")
            writer.writeheader()
            for answer, finding in zip(answers, findings, strict=True):
                row = to_row(answer, task) | {"warning": finding.warning}
                writer.writerow({name: files.spreadsheet_cell(cell) for name, cell in row.items()})
        inputs = {path: len(answers)} | ({args.model: None} if Path(args.model).is_dir() else {})
        outputs = {args.out: len(answers)}
        add_manifest(
            together, beside, script=__file__, argv=args.argv, seed=None, inputs=inputs, outputs=outputs
        )  # fmt: skip
    failed = sum(answer["error"] is not None for answer in answers)
    unlike = sum(bool(finding.warning) for finding in findings)
    say(
        f"wrote {args.out}: {len(answers):,} rows"
        + (f", {failed:,} of them without a full answer (column error)" if failed else "")
        + (f", {unlike:,} unlike the training rows (column warning)" if unlike else "")
    )


def check_inputs(model: str, examples: list[Example]) -> list[Finding]:
    """Return what is wrong with each row, compared with the rows the model was trained on."""
    from linklab.tasks.input_checks import INPUTS_FILE, Finding, check_row, read_inputs

    seen = read_inputs(model)
    if seen is None:
        say(f"{model}: no {INPUTS_FILE}, so rows are not compared with the training rows")
        return [Finding()] * len(examples)
    return [check_row(example.row, seen) for example in examples]


def no_answer(example: Example, error: str) -> dict:
    """Return the prediction of a row that cannot be asked."""
    return {"id": example.id, "answer": None, "error": error, "choices": {}}


def read_task(model: str):
    """Return the task a model was trained for."""
    from linklab.tasks.task import Task
    from linklab.tasks.training_record import read_record

    path = Path(model) / "task.json"
    if not path.exists():
        raise UserError(f"{model}: no task.json, so nobody knows how to ask it; give the model folder finetune wrote")
    read_record(model)  # names a file that changed since the training
    return Task.from_dict(files.read_json(path))


def read_questions(path: Path, task, max_rows: int | None) -> list:
    """Return an example without target for every row; a UserError names file and line of one that cannot be asked."""
    from linklab.tables.understand import open_new_rows
    from linklab.tasks.examples import Example, legal_choices, lowest_ranked, write_questions

    table = open_new_rows(path, task.schema, task.table)
    header = table.names
    needed = [*task.template.columns, *(t.choices_from for t in task.targets if t.choices_from)]
    for name in needed:
        if name not in header:
            raise UserError(
                f"{path}:1: no column '{name}', which the model's prompt shows; the columns are: {', '.join(header)}"
            )
    id_column = task.schema.one_of_role("id")
    examples = []
    for number, (line, cells) in enumerate(table.rows(), start=1):
        row = dict(zip(header, cells, strict=True))
        try:
            choices = {t.name: legal_choices(t, row) for t in task.targets if t.kind == "class"}
            if empty := next((name for name, texts in choices.items() if not texts), None):
                raise UserError(f"no legal choice for '{empty}'")
            prompt, questions = write_questions(task, row, choices, {}, {})
        except UserError as error:
            raise UserError(f"{path}:{line}: {error}") from error
        name = row[id_column.name] if id_column and id_column.name in row else f"row-{number}"
        examples.append(Example(name, name, "test", prompt, "", {}, choices, {}, row, questions))
    if not examples:
        raise UserError(f"{path}: no rows below the header")
    say(f"{path.name}: {len(examples):,} rows, {len(header)} columns; {table.dialect.describe()}")
    for note in table.notes:
        say(f"  note: {note}")
    if max_rows is None:
        return examples
    chosen = {id(example) for example in lowest_ranked(examples, max_rows)}
    return [example for example in examples if id(example) in chosen]  # in the file's order


def ask(args, task, examples) -> list[dict]:
    """Return a prediction of every example."""
    from linklab.inference import row_answers
    from linklab.models import load

    with load.quiet_transformers():
        scorer = row_answers.load_scorer(args.model, args.precision, args.base_model, args.batch_tokens)
        return row_answers.answer_exactly(
            scorer,
            examples,
            task,
            numbers=args.numbers,
            max_new_tokens=args.max_new_tokens,
            progress=cli.Progress("ask", len(examples)).at,
        )


def to_row(prediction: dict, task) -> dict:
    """Return the CSV line of a prediction; the probability is that of the choice among the row's legal ones."""
    row = {"id": prediction["id"], "error": prediction["error"] or ""}
    for target in task.targets:
        row[target.name] = (prediction["answer"] or {}).get(target.name) or ""
        if target.kind == "class" and prediction["choices"].get(target.name):
            row[f"{target.name}_probability"] = f"{math.exp(prediction['choices'][target.name][0][1]):.4f}"
    return row


def main(argv=None) -> int:
    """Run the script and return its exit code."""
    return cli.main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
