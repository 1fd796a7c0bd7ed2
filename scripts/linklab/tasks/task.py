"""The task of a model: the columns in the answer, the legal answers, and the prompt template."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linklab import files
from linklab.cli import UserError
from linklab.tables.schema import Column, Schema, read_number
from linklab.tables.table import Table
from linklab.tasks import answer_forms
from linklab.tasks.answer_forms import AnswerForm, JsonForm, PlainForm
from linklab.tasks.splits import SplitRule
from linklab.tasks.templates import Template, default_template, escape_braces, read_template

MIN_ROWS = 3  # one for each side of the split
ASK = ("row", "choices")  # one question per row, or one per choice of a row


@dataclasses.dataclass(frozen=True)
class Target:
    """One column of the answer. A class has legal choices: the row's own (`choices_from`), or the same for all rows."""

    name: str
    kind: str  # "class" | "number" | "text"
    unit: str = ""
    utility: str | None = None  # the list column with the worth of each choice
    choices_from: str | None = None
    choices: tuple[str, ...] | None = None
    worth_of: str | None = None  # for a number: the class target; the number is the worth of its right answer


@dataclasses.dataclass(frozen=True)
class Task:
    """Schema, targets in answer order, the prompt template, and how questions are asked.

    `ask` is "row" (one question per row; its answer holds every target) or "choices" (one question per choice; its
    answer is the worth of that choice, in whole numbers of `answer_unit`: with 10, `34` means 340 Mbit/s).
    `answer_format` is "plain" or "json" (see `answer_forms`).
    `table` is the record of how the table was read (see `tables.table_record`): file, roles, kinds, options.
    """

    schema: Schema
    targets: tuple[Target, ...]
    template: Template
    ask: str = "row"
    answer_unit: float = 1
    group_field: str | None = None  # the column whose equal cells stay on one side; the schema's group column if None
    table: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    split: SplitRule | None = None  # None if not decided yet
    answer_format: str = "plain"

    def __post_init__(self) -> None:
        assert self.ask in ASK, self.ask
        if self.ask == "choices":
            if self.answer_format != "plain":
                raise UserError("--answer-format json: with --ask choices an answer is one number; use --ask "
                                "row")  # fmt: skip
            if reason := why_not_choices(self.targets):
                raise UserError(f"--ask choices: {reason}; use --ask row")
            source = self.choice_target.choices_from
            own = [c.name for c in self.schema.by_role("input") if source in (c.name, c.aligned_with)]
            if not self.template.last_lists or not set(self.template.last_lists) <= set(own):
                raise UserError(
                    f"--ask choices: the last line of the prompt template must show the choice asked about, with list "
                    f"columns from {', '.join(own)} and no others; move that line to the end or use --ask row"
                )

    @functools.cached_property
    def choice_target(self) -> Target:
        """The class target whose choices are asked about one by one."""
        return next(t for t in self.targets if t.kind == "class" and t.choices_from)

    @functools.cached_property
    def worth_target(self) -> Target | None:
        """The number target that is the worth of the right choice, if any."""
        return next((t for t in self.targets if t.worth_of == self.choice_target.name), None)

    @functools.cached_property
    def answer_column(self) -> Column:
        """The column of answers to questions about one choice: whole numbers of `answer_unit`, with their range."""
        target = self.choice_target
        worth = target.utility or (self.worth_target and self.worth_target.name)
        assert worth, "a task with --ask choices has a worth per choice"
        source = self.schema[worth]
        low = None if source.low is None else math.floor(source.low / self.answer_unit)
        high = None if source.high is None else math.ceil(source.high / self.answer_unit)
        return Column(source.name, "target", "int", unit=source.unit, low=low, high=high)

    def write_worth(self, value: float) -> str:
        """Return the answer text of a choice worth `value`: 342.8 with `answer_unit` 10 -> `34`."""
        return str(round(value / self.answer_unit))

    @functools.cached_property
    def form(self) -> AnswerForm:
        """The form of an answer's text; plain targets are separated by a line end if a class holds spaces."""
        if self.answer_format == "json":
            return JsonForm(tuple(target.name for target in self.targets))
        spaced = any(target.kind == "class" and any(" " in c for c in target.choices or ()) for target in self.targets)
        return PlainForm("\n" if spaced else " ")

    @functools.cached_property
    def _kinds(self) -> dict[str, str]:
        return {target.name: target.kind for target in self.targets}

    def write_answer(self, target: Mapping[str, str], n: int | None = None) -> str:
        """Return the answer text: {"channel": "5775", "throughput": "594"} -> `5775 594`.

        With `n` only the first `n` targets, up to the start of the next value: 1 -> `5775 `.
        """
        return answer_forms.write(self.form, self._kinds, target, n)

    def read_answer(self, text: str, choices: Mapping[str, Sequence[str]]) -> tuple[dict[str, str | None], str | None]:
        """Return (text of each target or None, what is wrong or None) of a model's answer.

        A class must be one of `choices[target]`; a number must be written as a decimal number; a free text is any text
        that is not empty.
        """
        parts, whole = self.form.parts(text, [target.name for target in self.targets])
        answer: dict[str, str | None] = {}
        problems = []
        for target, part in zip(self.targets, parts, strict=True):
            if target.kind != "class" or part not in choices[target.name]:  # a class may hold outer spaces itself
                part = part.strip()
            wrong = _wrong(target.kind, part, choices.get(target.name, ()))
            answer[target.name] = None if wrong else part
            if wrong:
                problems.append(f"{target.name}: {part!r} is {wrong}")
        if whole:
            return dict.fromkeys(answer), "; ".join([*problems, whole] if isinstance(self.form, PlainForm) else [whole])
        return answer, "; ".join(problems) or None

    def to_dict(self) -> dict:
        """Return the task as JSON-ready values."""
        targets = [{k: v for k, v in dataclasses.asdict(t).items() if v not in (None, "")} for t in self.targets]
        asked: dict[str, Any] = {"ask": self.ask} | ({"answer_unit": self.answer_unit} if self.ask == "choices" else {})
        asked |= {"group_field": self.group_field} if self.group_field else {}
        asked |= {"table": self.table} if self.table else {}
        asked |= {"split": self.split.to_dict()} if self.split else {}
        asked |= {"answer_format": self.answer_format} if self.answer_format != "plain" else {}
        return asked | {"targets": targets, "template": self.template.text, "schema": self.schema.to_dict()}

    @classmethod
    def from_dict(cls, value: dict) -> Task:
        """Build a task from the output of `to_dict`."""
        try:
            schema = Schema.from_dict(value["schema"])
            targets = [
                Target(**{**t, "choices": tuple(t["choices"]) if "choices" in t else None}) for t in value["targets"]
            ]
            ask = value.get("ask", "row")  # older folders have no 'ask'
            if ask not in ASK:
                raise UserError(f"the task's 'ask' = {ask!r}; expected {' or '.join(ASK)}")
            answer_format = value.get("answer_format", "plain")
            if answer_format not in answer_forms.FORMS:
                raise UserError(f"the task's 'answer_format' = {answer_format!r}; expected plain or json")
            template = Template(value["template"], schema)
            split = SplitRule.from_dict(value["split"]) if "split" in value else None
            return cls(
                schema, tuple(targets), template, ask, value.get("answer_unit", 1), value.get("group_field"),
                value.get("table", {}), split, answer_format,
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"the task description is damaged or incomplete ({error})") from error


def _wrong(kind: str, text: str, choices: Sequence[str]) -> str | None:
    """Return what is wrong with a target's answer, or None."""
    if kind == "class":
        return None if text in choices else "not a legal choice"
    if kind == "number":
        return "not a number" if math.isnan(read_number(text)) else None
    return None if text else "empty"


def why_not_choices(targets: Sequence[Target]) -> str | None:
    """Return why `--ask choices` is not possible for these targets, None if it is."""
    own = [t for t in targets if t.kind == "class" and t.choices_from]
    if len(own) != 1:
        return "rows must have their own choices, for one class target"
    others = [t for t in targets if t is not own[0]]
    if strange := next((t for t in others if t.worth_of != own[0].name), None):
        return f"'{strange.name}' is not the worth of a choice of '{own[0].name}' is worth"
    if not own[0].utility and not others:
        return f"no column holds the worth of a choice of '{own[0].name}'"
    return None


def _require_rows_and_inputs(table: Table, schema: Schema, n_rows: int | None, targets: Sequence[str]) -> None:
    """Raise a UserError for a table with too few rows or no inputs; `n_rows` is None for links.csv (not counted)."""
    if n_rows is not None and n_rows < MIN_ROWS:
        raise UserError(f"{table}: too few rows ({n_rows}) to train, validate and test on; start with a few "
                        f"hundred")  # fmt: skip
    if not schema.by_role("input"):
        raise UserError(f"{table}: no input column is left besides {', '.join(targets)}")


def make_task(
    csv: str | Path | Table,
    target_fields: Sequence[str] | None = None,
    template_file: str | Path | None = None,
    *,
    id_field: str | None = None,
    group_field: str | None = None,
    ask: str | None = None,
    system_prompt: str | None = None,
    answer_format: str | None = None,
) -> Task:
    """Return the task of a table: the link task for a file with the header of links.csv, else one made from its cells.

    `target_fields`, `id_field` and `group_field` are options for a path; a `Table` has its own. Every table but
    links.csv needs `target_fields`. `ask` is "row" or "choices"; None is "choices" if rows have their own choices and
    the worth of each, else "row". `answer_format` is "plain" (None) or "json". Raises a UserError that lists the
    columns for an unknown name.
    """
    from linklab.links.links import ANSWER_UNIT_MBPS
    from linklab.tables.table import TableOptions, match_names, open_table
    from linklab.tables.understand import understand

    options = TableOptions(target_fields=tuple(target_fields or ()), id_field=id_field, group_field=group_field)
    table = open_table(csv, options)
    options = table.options
    known = _known_schema(table)
    if known is None and not options.target_fields:
        raise UserError(
            f"{table}: not a links.csv, so --target-field is needed; the columns are: {', '.join(table.names)}"
        )
    names = match_names(table, options.target_fields, table.names)
    if not names:
        assert known, "else --target-field was given"
        names = [column.name for column in known.by_role("target")]
    understood = understand(table, known=known.with_targets(names) if known else None)
    schema = understood.schema
    _require_rows_and_inputs(table, schema, understood.record.get("rows"), names)
    targets = tuple(_target(schema, name) for name in names)
    ask = ask or ("row" if why_not_choices(targets) else "choices")
    text = read_template(template_file) if template_file else _default_prompt(schema, ask, for_links=known is not None)
    if system_prompt:
        text = f"{escape_braces(read_system_prompt(system_prompt))}\n\n{text}"
    if answer_format != "json":
        _require_one_line_each(targets)
    unit = ANSWER_UNIT_MBPS if known and ask == "choices" else 1
    understood.record["warnings"] += warn_of_markers(text)
    return Task(
        schema, targets, Template(text, schema), ask, unit, options.group_field, understood.record,
        answer_format=answer_format or "plain",
    )  # fmt: skip


def _default_prompt(schema: Schema, ask: str, *, for_links: bool) -> str:
    """Return the text of the default template."""
    from linklab.links.links import LINK_CHOICES_TEMPLATE, LINK_TEMPLATE

    if not for_links:
        return default_template(schema)
    return LINK_CHOICES_TEMPLATE if ask == "choices" else LINK_TEMPLATE


def _require_one_line_each(targets: Sequence[Target]) -> None:
    """Raise a UserError if one of several targets may hold a line end, which separates the targets of an answer."""
    for target in targets if len(targets) > 1 else ():
        if target.kind == "text" or any("\n" in choice for choice in target.choices or ()):
            raise UserError(
                f"column '{target.name}' holds {'free text' if target.kind == 'text' else 'line ends'}, which "
                f"cannot be separated from the next target; use --answer-format json, or make it the only target"
            )


def _known_schema(table: Table) -> Schema | None:
    """Return the schema of a table with the header of links.csv, None for any other."""
    from linklab.links.links import FIELD_SCHEMA, LINK_SCHEMA

    return next((schema for schema in (LINK_SCHEMA, FIELD_SCHEMA) if schema.names == table.names), None)


def read_system_prompt(text: str) -> str:
    """Return the text of --system-prompt: that of the file with this name if there is one, else the value itself.

    It is put before the first question of a prompt, where Gemma's chat template puts a system message too.
    """
    try:
        is_file = Path(text).is_file()
    except OSError:  # a text too long for a name
        is_file = False
    found = files.read_text(text) if is_file else text
    if not found.strip():
        raise UserError("--system-prompt: the text is empty; leave the option out")
    return found.strip()


_MARKERS = ("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "[INST]", "<s>", "</s>",
            "<|user|>", "<|assistant|>", "<|begin_of_text|>", "<|eot_id|>")  # fmt: skip


def warn_of_markers(template: str) -> list[str]:
    """Return a warning if a template contains markers of a chat format: training adds them itself."""
    found = [marker for marker in _MARKERS if marker in template]
    if not found:
        return []
    return [f"the prompt template holds chat markers ({', '.join(found)}); the model's own format is added when "
            f"training and asking, so leave them out of --prompt-template"]  # fmt: skip


def _target(schema: Schema, name: str) -> Target:
    column = schema[name]
    kind = schema.target_kind(name)
    if kind == "class" and not column.choices_from and not column.choices:
        raise UserError(f"column '{name}' has too many different texts to be a class; use --target-kind text, or "
                        f"choose another --target-field")  # fmt: skip
    return Target(name, kind, column.unit, column.utility_from, column.choices_from, column.choices, column.worth_of)
