"""The folder convert writes and training reads: JSONL shards a split, a data card that names them, and the task."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring as quote
from pathlib import Path
from typing import NamedTuple

from linklab import files
from linklab.cli import UserError
from linklab.manifest import read_manifest
from linklab.tables.csv_stream import Block, read_block
from linklab.tasks.examples import Columns, Example, ExampleMaker, json_floats, lowest_ranked, make_examples
from linklab.tasks.splits import SPLITS, rank_key
from linklab.tasks.task import Target, Task

TASK_FILE = "task.json"
CHUNK_ROWS = 100  # converted together, column by column: what they need stays in the processor's cache
_DATE = re.compile(r"\d{4}-\d\d")  # how every text starts that Arrow's JSON reader may take for a moment in time
_JSON = re.compile(r'\s*(?:[-\d"\[{]|null|true|false|NaN|Infinity)')  # and every text that may itself be read as JSON


def to_lines(columns: Columns, task: Task) -> list[str]:
    """Return the JSONL lines of some rows. Choices shared by all rows stand in task.json instead."""
    # By hand, since millions are written: what json.dumps gives with ensure_ascii=False and no spaces.
    own = [t for t in task.targets if t.choices_from]
    worth = [t for t in task.targets if t.utility]

    def keys(targets: Iterable[Target], value: str) -> str:
        return ",".join([quote(t.name).replace("%", "%%") + f":{value}" for t in targets])

    layout = (
        '{"id":%s,"group":%s,"messages":[{"role":"user","content":%s},{"role":"assistant","content":%s}],'
        f'"target":{{{keys(task.targets, "%s")}}},'
        f'"choices":{{{keys(own, "[%s]")}}},"values":{{{keys(worth, "%s")}}}}}\n'
    )
    texts = (columns.ids, columns.groups, columns.prompts, columns.answers, *columns.targets)
    choices = [[",".join(map(quote, row)) for row in rows] for rows in columns.choices]
    pieces = zip(*(map(quote, column) for column in texts), *choices, *columns.values, strict=True)
    lines = list(map(layout.__mod__, pieces))
    if all(map(str.isascii, lines)):
        return lines
    # The line separators U+2028 and U+2029 end a line for some readers of JSONL, so they are escaped.
    escapes = ("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085")
    for character, escape in escapes:
        lines = [line.replace(character, escape) for line in lines]
    return lines


class CardFeatures:
    """The types a data card must declare so that `load_dataset` gives back the very texts that were written.

    Left to guess, datasets 5.2 makes a moment of every text in a column whose texts look like dates, and declared as
    strings they come back as "2020-01-01 00:00:00". Its Json type keeps them, but would read "5775" as a number and
    round floats to ten digits; so a column gets it only where a date was seen or rows have no keys in common.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dated: set[str] = set()  # columns in which a date was seen
        self._first: dict[str, dict[str, str]] = {"id": {}, "group": {}}  # the first date and the first JSON of each

    def see(self, rows: Columns) -> None:
        """Take note of some rows; raises a UserError for ids or groups that no declared type could keep."""
        if any(map(_DATE.match, rows.prompts)):
            self.dated.add("messages")
        if any(map(_DATE.match, itertools.chain(*rows.targets))):
            self.dated.add("target")
        for row_id, group in zip(rows.ids, rows.groups, strict=True):
            if _JSON.match(row_id):  # a date starts as a number does
                self._see_name("id", row_id)
            if _JSON.match(group):
                self._see_name("group", group)

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

    def lines(self) -> list[str]:
        """Return the `dataset_info` of the card, as YAML."""
        own = [t.name for t in self.task.targets if t.choices_from]
        worth = [t.name for t in self.task.targets if t.utility]

        def struct(names: list[str], kind: str) -> list[str]:
            if not names:
                return ["    dtype: json"]
            return ["    struct:", *(f"    - name: {json.dumps(n, ensure_ascii=False)}\n      {kind}" for n in names)]

        text, either = "dtype: string", ["    dtype: json"]
        messages = ["    list:", "    - name: role", f"      {text}", "    - name: content", f"      {text}"]
        return [
            "dataset_info:", "  features:",
            "  - name: id", *(either if "id" in self.dated else [f"    {text}"]),
            "  - name: group", *(either if "group" in self.dated else [f"    {text}"]),
            "  - name: messages", *(["    list: json"] if "messages" in self.dated else messages),
            "  - name: target",
            *(either if "target" in self.dated else struct([t.name for t in self.task.targets], text)),
            "  - name: choices", *struct(own, "list: string"),
            "  - name: values", *struct(worth, "list: float64"),
        ]  # fmt: skip


class Converted(NamedTuple):
    """What became of a block of rows."""

    train: list[str]  # lines
    others: list[tuple[str, str, str]]  # (split, id, line) of each row outside training
    features: CardFeatures  # what the card must know of the rows


def convert_block(
    item: tuple[int, Block],
    *,
    csv_path: str | Path,
    task: Task,
    last: tuple[tuple[float, str], int] | None = None,
    **how,
) -> Converted:
    """Convert the rows of a block: `item` is the number of its first row and the block.

    `last` (of `splits.last_chosen`) leaves out the rows that --max-rows does not choose; `how` goes to `ExampleMaker`.
    """
    first, block = item
    maker = ExampleMaker(task, **how)

    def rows() -> Iterator[tuple[int, list[str]]]:
        return read_block(csv_path, block, len(task.schema.names))

    try:
        cells = [row for _, row in rows()]
        starts = range(0, len(cells), CHUNK_ROWS)
        return _write(task, (maker.make_columns(cells[i : i + CHUNK_ROWS], first + i) for i in starts), first, last)
    except (UserError, ValueError):  # some row may not serve: one by one it is known which, and what is wrong with it
        examples = make_examples(csv_path, maker, rows(), first)
        return _write(task, (_as_columns(example, task) for example in examples), first, last)


def _write(task: Task, parts: Iterable[Columns], first: int, last: tuple[tuple[float, str], int] | None) -> Converted:
    made = Converted([], [], CardFeatures(task))
    numbers = itertools.count(first)
    for columns in parts:
        made.features.see(columns)
        for split, row_id, line in zip(columns.splits, columns.ids, to_lines(columns, task), strict=True):
            if last is not None and (rank_key(row_id), next(numbers)) > last:
                continue
            if split == "train":
                made.train.append(line)
            else:
                made.others.append((split, row_id, line))
    return made


def _as_columns(example: Example, task: Task) -> Columns:
    return Columns(
        [example.id], [example.group], [example.split], [example.prompt], [example.answer],
        [[text] for text in example.target.values()],
        [[example.choices[t.name]] for t in task.targets if t.choices_from],
        [[json_floats(numbers)] for numbers in example.values.values()],
    )  # fmt: skip


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
    try:
        return Task.from_dict(files.read_json(folder / TASK_FILE))
    except UserError as error:
        raise UserError(f"{folder / TASK_FILE}: {error}") from error


def shards(folder: str | Path, split: str) -> list[Path]:
    """Return a split's shards as the manifest names them, so that stale or foreign files are never read."""
    folder = Path(folder)
    names = [entry["path"] for entry in read_manifest(folder)["outputs"] if entry["path"].startswith(f"{split}-")]
    for name in names:
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: named in the manifest, and gone; convert the CSV again")
    return [folder / name for name in sorted(names)]


def read_examples(folder: str | Path, split: str, max_rows: int | None = None) -> list[Example]:
    """Return a split's examples in rank order, the same rows in the same order as the CSV they came from."""
    assert split in SPLITS, split
    task = read_task(folder)
    found = lowest_ranked((e for path in shards(folder, split) for e in read_shard(path, task, split)), max_rows)
    if not found:
        raise UserError(f"{folder}: no rows in the {split} split; generate or collect more rows")
    return found


def read_shard(path: Path, task: Task, split: str) -> Iterator[Example]:
    """Yield the examples of one shard; a UserError names the line that is none."""
    shared = {t.name: list(t.choices or ()) for t in task.targets if t.kind == "class" and not t.choices_from}
    with open(path, encoding="utf-8", newline="\n") as handle:
        for line, text in enumerate(handle, start=1):
            try:
                value = json.loads(text)
                user, assistant = value["messages"]
                yield Example(
                    id=value["id"], group=value["group"], split=split,
                    prompt=user["content"], answer=assistant["content"],
                    target=value["target"], choices=value["choices"] | shared, values=value["values"], row={},
                )  # fmt: skip
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}:{line}: not a line of this toolkit ({error})") from error
