"""The converted folder that training reads: JSONL shards per split, a data card that lists them, and task.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from linklab import files
from linklab.cli import UserError
from linklab.manifest import MANIFEST, require_unchanged
from linklab.tables.csv_stream import Block, read_block
from linklab.tasks.examples import Example, ExampleMaker, Question, lowest_ranked, make_examples
from linklab.tasks.row_cells import csv_lines, shown_columns
from linklab.tasks.split_count import SplitCount
from linklab.tasks.splits import SPLITS, rank_key
from linklab.tasks.task import Task

TASK_FILE = "task.json"
REMEDY = "restore it, or convert the CSV again"
_DATE = re.compile(r"\d{4}-\d\d")  # the start of every text that Arrow's JSON reader may read as a timestamp
_JSON = re.compile(r'\s*(?:[-\d"\[{]|null|true|false|NaN|Infinity)')  # the start of every text that is JSON itself


def to_jsonl(example: Example, task: Task) -> bytes:
    """Return an example's JSONL: one line per conversation, each with everything needed to score its row.

    With `--ask row` that is one line. With `--ask choices` it is one line for each choice with a known answer; its id
    is `ROW/CHOICE`, and it also has `row` and `choice`. Choices shared by all rows are in task.json instead.
    """
    own = {t.name: example.choices[t.name] for t in task.targets if t.choices_from}
    rest = {"target": example.target, "choices": own, "values": example.values}
    if task.ask == "row":
        lines = [{"id": example.id, "group": example.group, "messages": _messages(example.questions[0]), **rest}]
    else:
        # What a row's lines share is written once.
        rest = {name: orjson.Fragment(orjson.dumps(value)) for name, value in rest.items()}
        lines = [
            {
                "id": f"{example.id}/{question.choice}",
                "row": example.id,
                "group": example.group,
                "choice": question.choice,
                "messages": _messages(question),
                **rest,
            }
            for question in example.answered
        ]
    text = b"".join([orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines])
    if text.isascii():
        return text
    # The line separators U+2028 and U+2029 end a line for some readers of JSONL, so they are escaped.
    for character, escape in ("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\x85", b"\\u0085"):
        text = text.replace(character.encode(), escape)
    return text


def _messages(question: Question) -> list[dict[str, str | None]]:
    return [{"role": "user", "content": question.prompt}, {"role": "assistant", "content": question.answer}]


class CardFeatures:
    """The column types in the data card: they make `load_dataset` return exactly the texts that were written.

    Without them datasets 5.2 reads texts that look like dates as timestamps; declared as strings, they come back as
    "2020-01-01 00:00:00". Its Json type keeps them, but reads "5775" as a number and rounds floats to ten digits; so a
    column gets the Json type only if a date was seen in it.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dated: set[str] = set()  # columns in which a date was seen
        # The first date and the first JSON of each
        self._first: dict[str, dict[str, str]] = {name: {} for name in ("id", "group", "choice")}

    def see(self, example: Example) -> None:
        """Note the dates in a row; raises a UserError for ids or groups that no type would keep unchanged."""
        if _DATE.match(example.prompt):
            self.dated.add("messages")
        if any(map(_DATE.match, example.target.values())):
            self.dated.add("target")
        if _JSON.match(example.id):  # also true for dates
            self._see_name("id", example.id)
        if _JSON.match(example.group):
            self._see_name("group", example.group)
        if self.task.ask == "choices":
            for choice in filter(_DATE.match, example.choices[self.task.choice_target.name]):
                self._see_name("choice", choice)

    def merge(self, other: CardFeatures) -> None:
        """Add what was seen in the rows that follow."""
        self.dated |= other.dated
        for name, first in other._first.items():
            for text in first.values():
                self._see_name(name, text)

    def _see_name(self, name: str, text: str) -> None:
        first = self._first[name]
        first.setdefault("date" if _DATE.match(text) else "JSON", text)
        if len(first) == 2:
            option = "--id-field" if name == "id" else "--group-field"
            raise UserError(
                f"{name} {text!r}: a column with dates and other numbers ({first['date']!r} and {first['JSON']!r}): "
                f"datasets.load_dataset would change some of them; choose another {option}"
            )
        if "date" in first:
            self.dated.add(name)

    def dataset_info(self) -> dict[str, Any]:
        """Return the `dataset_info` of the card."""

        def column(name: str, kind: dict) -> dict:
            return {"name": name} | ({"dtype": "json"} if name in self.dated else kind)

        def struct(names: list[str], kind: dict) -> dict:  # may be empty; no json: Colab's datasets 4.0 lacks it
            return {"struct": [{"name": name} | kind for name in names]}

        text, targets = {"dtype": "string"}, self.task.targets
        turns: Any = "json" if "messages" in self.dated else [{"name": "role"} | text, {"name": "content"} | text]
        identity = [column("id", text), column("group", text)]
        if self.task.ask == "choices":
            row = column("id", text) | {"name": "row"}
            identity = [identity[0], row, identity[1], column("choice", text)]
        return {"features": [
            *identity, {"name": "messages", "list": turns}, column("target", struct([t.name for t in targets], text)),
            {"name": "choices"} | struct([t.name for t in targets if t.choices_from], {"list": "string"}),
            {"name": "values"} | struct([t.name for t in targets if t.utility], {"list": "float64"}),
        ]}  # fmt: skip


class Converted(NamedTuple):
    """The result of converting one block of rows."""

    train: list[bytes]  # the JSONL of each row
    others: list[tuple[str, str, bytes]]  # (split, id, JSONL) of each row outside training
    features: CardFeatures  # the column types for the data card
    cells: str  # the lines of cells.csv
    split_count: SplitCount


def convert_block(
    item: tuple[int, Block],
    *,
    path: str | Path,
    task: Task,
    last: tuple[tuple[float, str], int] | None = None,
    **maker_options: Any,
) -> Converted:
    """Convert the rows of a block: `item` is the number of its first row and the block.

    `last` (of `splits.last_chosen`) leaves out rows not chosen by --max-rows; `maker_options` go to `ExampleMaker`.
    Raises a UserError with file and line of the first unusable row.
    """
    first, block = item
    rows = read_block(path, block, len(task.schema.names))
    train, others, cells = [], [], []
    features, split_count = CardFeatures(task), SplitCount(task)
    shown = [column.name for column in shown_columns(task)]
    maker = ExampleMaker(task, **maker_options)
    for number, example in enumerate(make_examples(path, maker, rows, first), start=first):
        if last is not None and (rank_key(example.id), number) > last:
            continue
        features.see(example)
        split_count.add(example.split, example.group, example.target)
        cells.append([example.id, *map(example.row.__getitem__, shown)])
        text = to_jsonl(example, task)
        if example.split == "train":
            train.append(text)
        else:
            others.append((example.split, example.id, text))
    return Converted(train, others, features, csv_lines(cells), split_count)


def shard_name(split: str, index: int, count: int) -> str:
    """Return a shard's file name: ("train", 0, 2) -> "train-00000-of-00002.jsonl"."""
    return f"{split}-{index:05d}-of-{count:05d}.jsonl"


def read_task(folder: str | Path) -> Task:
    """Return the task a converted folder was written for."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; make it with convert_csv_to_jsonl.py")
    if not (folder / TASK_FILE).exists():
        raise UserError(f"{folder}: no {TASK_FILE} here; make the folder with convert_csv_to_jsonl.py")
    if (folder / MANIFEST).exists():
        require_unchanged(folder, lambda name: name == TASK_FILE, remedy=REMEDY)
    try:
        return Task.from_dict(files.read_json(folder / TASK_FILE))
    except UserError as error:
        raise UserError(f"{folder / TASK_FILE}: {error}") from error


def shards(folder: str | Path, split: str) -> list[Path]:
    """Return the split's shards listed in the manifest; a changed one is an error, other files are never read."""
    return sorted(require_unchanged(folder, lambda name: name.startswith(f"{split}-"), remedy=REMEDY))


def read_examples(folder: str | Path, split: str, max_rows: int | None = None) -> list[Example]:
    """Return a split's examples in rank order, the same rows in the same order as the CSV they came from."""
    assert split in SPLITS, split
    task = read_task(folder)
    found = lowest_ranked((e for path in shards(folder, split) for e in read_shard(path, task, split)), max_rows)
    if not found:
        raise UserError(f"{folder}: no rows in the {split} split; generate or collect more rows")
    return found


def read_lines(path: Path) -> Iterator[tuple[dict[str, Any], Question]]:
    """Yield (value, its question) of each line of a shard; a UserError names an invalid line."""
    with open(path, encoding="utf-8", newline="\n") as handle:
        for number, text in enumerate(handle, start=1):
            try:
                value = files.parse_json(text)
                user, assistant = value["messages"]
                yield value, Question(value.get("choice"), user["content"], assistant["content"])
            except (ValueError, KeyError, TypeError) as error:
                raise _line_error(path, number, error) from error


def _line_error(path: Path, number: int, error: Exception) -> UserError:
    return UserError(f"{path}:{number}: not a line that convert_csv_to_jsonl.py wrote ({error})")


def read_shard(path: Path, task: Task, split: str) -> Iterator[Example]:
    """Yield the examples of one shard; a UserError names an invalid line."""
    shared = {t.name: list(t.choices or ()) for t in task.targets if t.kind == "class" and not t.choices_from}
    lines: list[dict] = []  # of one row so far
    for number, (value, question) in enumerate(read_lines(path), start=1):
        try:
            row = value["row"] if task.ask == "choices" else value["id"]
            line = {key: value[key] for key in ("group", "target", "values")}
            line |= {"id": row, "choices": value["choices"] | shared, "question": question}
            if task.ask == "choices":
                line["choices"][task.choice_target.name].index(question.choice)
        except (ValueError, KeyError, TypeError) as error:
            raise _line_error(path, number, error) from error
        asked = [one["question"].choice for one in lines]
        if lines and (line["id"] != lines[0]["id"] or task.ask == "row" or question.choice in asked):
            yield _join(lines, task, split)
            lines = []
        lines.append(line)
    if lines:
        yield _join(lines, task, split)


def _join(lines: list[dict], task: Task, split: str) -> Example:
    """Return the example of a row's lines; with `--ask choices` there is a line per choice with a known answer."""
    questions = tuple(line.pop("question") for line in lines)
    line = lines[0]
    if task.ask == "row":
        return Example(**line, split=split, prompt=questions[0].prompt, answer=questions[0].answer, row={})
    header, newline, _ = questions[0].prompt.rpartition("\n")
    shown = [question.prompt.rpartition("\n")[2] for question in questions]
    prompt = header + newline + "\n".join(shown)
    return Example(
        **line, split=split, prompt=prompt, answer=task.write_answer(line["target"]), row={}, questions=questions
    )
