"""What is asked: which columns the answer holds, what may be answered, and how the prompt is written."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

from linklab.cli import UserError
from linklab.tables.schema import Schema, read_number
from linklab.tasks.templates import LINK_TEMPLATE, Template, default_template, read_template


@dataclasses.dataclass(frozen=True)
class Target:
    """One column of the answer. A class has legal choices: the row's own (`choices_from`), or the same for all rows."""

    name: str
    kind: str  # "class" | "number"
    unit: str = ""
    utility: str | None = None  # the list column that says what each choice is worth
    choices_from: str | None = None
    choices: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """Schema, targets in answer order, and the prompt template."""

    schema: Schema
    targets: tuple[Target, ...]
    template: Template

    @functools.cached_property
    def separator(self) -> str:
        """What stands between two targets of an answer: a space, or a line end where a class holds spaces itself."""
        spaced = any(target.kind == "class" and any(" " in c for c in target.choices or ()) for target in self.targets)
        return "\n" if spaced else " "

    def write_answer(self, target: dict[str, str]) -> str:
        """Return the answer text: {"channel": "5775", "throughput": "594"} -> `5775 594`."""
        return self.separator.join(target[t.name] for t in self.targets)

    def read_answer(self, text: str, choices: dict[str, Sequence[str]]) -> tuple[dict[str, str | None], str | None]:
        """Return (text of each target or None, what is wrong or None) of an answer a model wrote.

        A class must be one of `choices[target]`; a number must be written as a decimal number.
        """
        parts = text.strip().split(self.separator) if len(self.targets) > 1 else [text]
        answer: dict[str, str | None] = {}
        problems = []
        for i, target in enumerate(self.targets):
            part = parts[i] if i < len(parts) else ""
            if target.kind != "class" or part not in choices[target.name]:  # a class may hold outer spaces itself
                part = part.strip()
            legal = part in choices[target.name] if target.kind == "class" else not math.isnan(read_number(part))
            answer[target.name] = part if legal else None
            if not legal:
                problems.append(
                    f"{target.name}: {part!r} is {'not legal here' if target.kind == 'class' else 'no number'}"
                )
        if len(parts) > len(self.targets):
            problems.append(f"{len(parts)} parts where {len(self.targets)} are expected")
            answer = dict.fromkeys(answer)
        return answer, "; ".join(problems) or None

    def to_dict(self) -> dict:
        """Return the task as JSON-ready values."""
        targets = [{k: v for k, v in dataclasses.asdict(t).items() if v not in (None, "")} for t in self.targets]
        return {"targets": targets, "template": self.template.text, "schema": self.schema.to_dict()}

    @classmethod
    def from_dict(cls, value: dict) -> Task:
        """Build a task from what `to_dict` gave."""
        try:
            schema = Schema.from_dict(value["schema"])
            targets = [
                Target(**{**t, "choices": tuple(t["choices"]) if "choices" in t else None}) for t in value["targets"]
            ]
            return cls(schema, tuple(targets), Template(value["template"], schema))
        except (KeyError, TypeError) as error:
            raise UserError(f"the task description lacks or does not know {error}") from error


def make_task(
    csv_path: str | Path,
    target_fields: Sequence[str] | None = None,
    template_file: str | Path | None = None,
    *,
    id_field: str | None = None,
    group_field: str | None = None,
) -> Task:
    """Return the task of a CSV: the link task for a file with its header, else what the file's cells suggest.

    For any other CSV `target_fields` is needed. Raises a UserError that lists the columns for an unknown name.
    """
    from linklab.links.links import FIELD_SCHEMA, LINK_SCHEMA
    from linklab.tables.csv_stream import read_header
    from linklab.tables.infer import infer_schema

    header = read_header(csv_path)
    is_links = header in (LINK_SCHEMA.names, FIELD_SCHEMA.names)
    if not is_links and not target_fields:
        raise UserError(
            f"{csv_path}: not a links.csv, so --target-field is needed; the columns are: {', '.join(header)}"
        )
    names = list(target_fields or (column.name for column in LINK_SCHEMA.by_role("target")))
    for name in names:
        if name not in header:
            raise UserError(f"{csv_path}:1: no column '{name}'; the columns are: {', '.join(header)}")
    if is_links:
        schema = (LINK_SCHEMA if header == LINK_SCHEMA.names else FIELD_SCHEMA).with_targets(names)
    else:
        schema = infer_schema(csv_path, names, id_field=id_field, group_field=group_field)
    if not schema.by_role("input"):
        raise UserError(f"{csv_path}: no column is left as input beside {', '.join(names)}")
    if template_file:
        text = read_template(template_file)
    else:
        text = LINK_TEMPLATE if is_links else default_template(schema)
    targets = tuple(_target(schema, name) for name in names)
    if len(targets) > 1:
        for target in targets:
            if any("\n" in choice for choice in target.choices or ()):
                raise UserError(
                    f"column '{target.name}' holds line ends, which part the targets of an answer; ask it alone"
                )
    return Task(schema, targets, Template(text, schema))


def _target(schema: Schema, name: str) -> Target:
    column = schema[name]
    kind = schema.target_kind(name)
    if kind == "class" and not column.choices_from and not column.choices:
        raise UserError(f"column '{name}' has too many different texts to be a class; choose another --target-field")
    return Target(name, kind, column.unit, column.utility_from, column.choices_from, column.choices)
