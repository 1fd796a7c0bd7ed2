"""Conversations from other tools: JSON Lines with `messages`, one or more turns each, read as a free-text task.

A line is {"messages": [{"role": "system" | "user" | "assistant", "content": TEXT}, …]}; other keys are ignored.
Training learns every assistant turn from the turns before it; scoring uses only the last one. A hash of a
conversation's user messages decides its side of the split: the same questions are never on two sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from linklab import files
from linklab.cli import UserError
from linklab.tables.schema import Column, Schema
from linklab.tasks import splits
from linklab.tasks.examples import Example, Question, first_of_each_id, lowest_ranked
from linklab.tasks.jsonl import TASK_FILE
from linklab.tasks.splits import SplitRule, split_of
from linklab.tasks.task import Target, Task
from linklab.tasks.templates import Template

SUFFIXES = (".jsonl", ".ndjson")
EXPECTED = 'expected {"messages": [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}, …]}'


def conversation_files(path: str | Path) -> list[Path]:
    """Return the JSON Lines files of a file or folder from another tool; [] for none, or for a converted folder."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir() or (path / TASK_FILE).exists():
        return []
    return sorted(found for found in path.iterdir() if found.suffix in SUFFIXES and found.is_file())


def make_task() -> Task:
    """Return the task of any conversations: a text `reply` to a text `conversation`."""
    schema = Schema((Column("conversation", "input", "str"), Column("reply", "target", "str")))
    return Task(schema, (Target("reply", "text"),), Template("{conversation}", schema))


def choose_rule(path: str | Path, seed: int) -> SplitRule:
    """Return the split rule of conversations; no side stays empty if there are enough conversations."""
    found = (example.group for file in conversation_files(path) for example in _read_file(file, SplitRule()))
    return splits.choose_rule(seed, found)


def read_conversations(
    path: str | Path, split: str, max_rows: int | None = None, rule: SplitRule | None = None
) -> list[Example]:
    """Return a split's conversations in rank order; copies count once outside training.

    Raises a UserError with file and line of the first invalid line, or if the split has no rows.
    """
    found = (
        example
        for file in conversation_files(path)
        for example in _read_file(files.require_file(file), rule or SplitRule())
        if example.split == split
    )
    chosen = lowest_ranked(found if split == "train" else first_of_each_id(found), max_rows)
    if not chosen:
        raise UserError(f"{path}: no conversations in the {split} split; collect more, or choose another --split-seed")
    return chosen


def _read_file(path: Path, rule: SplitRule) -> Iterator[Example]:
    with open(path, "rb") as handle:  # bytes, so that a line that is not UTF-8 still has its number
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            try:
                yield parse_line(line, rule)
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
            except RecursionError as error:
                raise UserError(f"{path}:{number}: nested too deeply; {EXPECTED}") from error
            except ValueError as error:
                hint = "" if path.suffix.lower() in (*SUFFIXES, ".json") else "; a table is given with --csv"
                raise UserError(f"{path}:{number}: {error}; {EXPECTED}{hint}") from error


def parse_line(line: bytes, rule: SplitRule | None = None) -> Example:
    """Return the conversation of a line; a ValueError says what is wrong with it."""
    return _make_example(_read_messages(line), rule or SplitRule())


def _read_messages(line: bytes) -> list[tuple[str, str]]:
    """Return (role, text) of each turn; the system message is put before the first user message's text."""
    try:
        value = files.parse_json(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON at column {error.colno} ({error.msg})") from error
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError("no list 'messages'")
    given = [_role(message) for message in messages]  # before the texts: a tool call has none
    turns = list(zip(given, map(_text, messages), strict=True))
    system = turns.pop(0)[1] if turns[0][0] == "system" else ""
    roles = [role for role, _ in turns]
    if len(roles) < 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(f"the roles are {', '.join(roles) or 'none'}: user and assistant must alternate, user first, "
                         f"assistant last")  # fmt: skip
    if empty := next((role for role, text in turns if not text), None):
        raise ValueError(f"an empty {empty} message")
    return [("user", f"{system}\n\n{turns[0][1]}" if system else turns[0][1]), *turns[1:]]


def _role(message: object) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("system", "user", "assistant"):
        tools = ": tool calls cannot be trained on" if role == "tool" else ""
        raise ValueError(f"a message's role is {json.dumps(role)}{tools}")
    return role


def _text(message: dict) -> str:
    """Return a message's text: a string, or a list of parts that are all text."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ValueError("a message's content is not a text")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise ValueError("half a character (a lone surrogate) in a message")
    return content.strip()


def _make_example(turns: list[tuple[str, str]], rule: SplitRule) -> Example:
    asked = [text for role, text in turns if role == "user"]
    group = _hash(asked)
    questions = tuple(Question(None, turns[i][1], turns[i + 1][1], tuple(turns[:i])) for i in range(0, len(turns), 2))
    # The text of all turns before the last answer, for baselines and hashes.
    shown = "\n".join(f"{role}: {text}" for role, text in turns[:-1]) if len(turns) > 2 else turns[0][1]
    reply = turns[-1][1]
    return Example(
        _hash([text for _, text in turns]), group, split_of(group, rule.seed, rule.fractions), shown, reply,
        {"reply": reply}, {}, {}, {"conversation": shown}, questions,
    )  # fmt: skip


def _hash(texts: list[str]) -> str:
    return hashlib.sha256("\x1f".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
