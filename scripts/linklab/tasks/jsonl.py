"""The folder convert writes and training reads: JSONL shards a split, a data card that names them, and the task."""

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
_DATE = re.compile(r"\d{4}-\d\d")  # how every text starts that Arrow's JSON reader may take for a moment in time
_JSON = re.compile(r'\s*(?:[-\d"\[{]|null|true|false|NaN|Infinity)')  # and every text that may itself be read as JSON


def to_jsonl(example: Example, task: Task) -> bytes:
    """Return an example's JSONL: a line per conversation, each with all that scoring its row needs.

    That is one line with `--ask row`. With `--ask choices` there is one for each choice whose answer is known, named
    `ROW/CHOICE`, with `row` and `choice`. Choices shared by all rows stand in task.json instead.
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
    """The types a data card must declare so that `load_dataset` gives back the very texts that were written.

    Left to guess, datasets 5.2 makes a moment of every text in a column whose texts look like dates, and declared as
    strings they come back as "2020-01-01 00:00:00". Its Json type keeps them, but would read "5775" as a number and
    round floats to ten digits; so a column gets it only where a date was seen or rows have no keys in common.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dated: set[str] = set()  # columns in which a date was seen
        # The first date and the first JSON of each
        self._first: dict[str, dict[str, str]] = {name: {} for name in ("id", "group", "choice")}

    def see(self, example: Example) -> None:
        """Take note of a row; raises a UserError for ids or groups that no declared type could keep."""
        if _DATE.match(example.prompt):
            self.dated.add("messages")
        if any(map(_DATE.match, example.target.values())):
            self.dated.add("target")
        if _JSON.match(example.id):  # a date starts as a number does
            self._see_name("id", example.id)
        if _JSON.match(example.group):
            self._see_name("group", example.group)
        if self.task.ask == "choices":
            for choice in filter(_DATE.match, example.choices[self.task.choice_target.name]):
                self._see_name("choice", choice)

    def merge(self, other: CardFeatures) -> None:
        """Take note of what was seen of the rows that follow."""
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
                f"{name} {text!r}: among dates and other numbers in one column ({first['date']!r} and "
                f"{first['JSON']!r}) datasets.load_dataset would change some; choose another {option}"
            )
        if "date" in first:
            self.dated.add(name)

    def dataset_info(self) -> dict[str, Any]:
        """Return the `dataset_info` of the card."""

        def column(name: str, kind: dict) -> dict:
            return {"name": name} | ({"dtype": "json"} if name in self.dated else kind)

        def struct(names: list[str], kind: dict) -> dict:  # may be empty: datasets 4.0, which Colab has, knows no json
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
    """What became of a block of rows."""

    train: list[bytes]  # the JSONL of each row
    others: list[tuple[str, str, bytes]]  # (split, id, JSONL) of each row outside training
    features: CardFeatures  # what the card must know of the rows
    cells: str  # the lines of cells.csv
    split_count: SplitCount


def convert_block(
    item: tuple[int, Block],
    *,
    path: str | Path,
    task: Task,
    last: tuple[tuple[float, str], int] | None = None,
    **how: Any,
) -> Converted:
    """Convert the rows of a block: `item` is the number of its first row and the block.

    `last` (of `splits.last_chosen`) leaves out the rows that --max-rows does not choose; `how` goes to `ExampleMaker`.
    Raises a UserError naming file and line of the first row that cannot serve.
    """
    first, block = item
    rows = read_block(path, block, len(task.schema.names))
    train, others, cells = [], [], []
    features, split_count = CardFeatures(task), SplitCount(task)
    shown = [column.name for column in shown_columns(task)]
    for number, example in enumerate(make_examples(path, ExampleMaker(task, **how), rows, first), start=first):
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
    """Return a split's shards as the manifest names them, unchanged; stale or foreign files are never read."""
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
    """Yield (value, its question) of each line of a shard; a UserError names the line that is none."""
    with open(path, encoding="utf-8", newline="\n") as handle:
        for number, text in enumerate(handle, start=1):
            try:
                value = files.parse_json(text)
                user, assistant = value["messages"]
                yield value, Question(value.get("choice"), user["content"], assistant["content"])
            except (ValueError, KeyError, TypeError) as error:
                raise _no_line(path, number, error) from error


def _no_line(path: Path, number: int, error: Exception) -> UserError:
    return UserError(f"{path}:{number}: not a line that convert_csv_to_jsonl.py wrote ({error})")


def read_shard(path: Path, task: Task, split: str) -> Iterator[Example]:
    """Yield the examples of one shard; a UserError names the line that is none."""
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
            raise _no_line(path, number, error) from error
        asked = [one["question"].choice for one in lines]
        if lines and (line["id"] != lines[0]["id"] or task.ask == "row" or question.choice in asked):
            yield _join(lines, task, split)
            lines = []
        lines.append(line)
    if lines:
        yield _join(lines, task, split)


def _join(lines: list[dict], task: Task, split: str) -> Example:
    """Return the example whose lines these are: with `--ask choices` one for each choice whose answer is known."""
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
