"""The report of an experiment (HTML and markdown): verdict, main table, plots, sample rows, commands."""

from __future__ import annotations

import base64
import functools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linklab import files
from linklab.metrics import comparison, general
from linklab.metrics.comparison import ScoredRun
from linklab.metrics.metrics import SAMPLES_FILE
from linklab.metrics.predictions import FILE as PREDICTIONS_FILE
from linklab.metrics.predictions import parse_prediction
from linklab.metrics.run_checks import judged_rows
from linklab.reports import markdown
from linklab.reports.tables import (
    Experiment,
    build_costs,
    build_differences,
    build_table,
    in_percent,
    label,
    order_runs,
)  # fmt: skip
from linklab.reports.verdict import make_verdict

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent
COST_NOTE = (
    "Measured on the machine of each run. The seconds of a baseline include its training, those of a model do not. "
    "Dollars per million rows: multiply the hours by the price of such a machine per hour. Memory and parameters are "
    "measured for models only."
)
MAX_PLOTTED_CLASSES = 400  # with more classes a heat map shows nothing
CAPTIONS = {
    "confusion": "{run}: answers of each true {target}, as shares of its rows.",
    "reliability": "{run}: share of right answers against their stated probability.",
    "predicted": "{run}: predicted against true {target}.",
}


def build_samples(experiment: Experiment) -> list[dict]:
    """Return the sample rows: prompt, truth, and the answers of all runs but baselines, and of the best baseline."""
    path = experiment.focus.folder / SAMPLES_FILE
    if not path.exists():
        return []
    samples = files.read_json(path)["samples"]
    best = comparison.best_run(experiment.runs, experiment.primary, "baseline")
    shown = [run for run in experiment.runs if run.role != "baseline" or run is best]
    answers = {run.name: _read_answers(run, {sample["id"] for sample in samples}) for run in shown}
    return [
        {
            "id": sample["id"],
            "prompt": name_choices(sample["prompt"], sample.get("choices", [])),
            "names_choices": bool(sample.get("choices")),
            "truth": sample["answer"],
            "answers": [
                {"name": run.name, "role": run.role, "marks": _mark(answers[run.name].get(sample["id"]), sample, run)}
                for run in order_runs(shown, experiment.primary)
            ],
        }
        for sample in samples
    ]


def name_choices(prompt: str, choices: Sequence[str]) -> str:
    """Return a prompt with the choice's name added to each of its last lines, one per choice: `26 14   <- 5510`."""
    lines = prompt.split("\n")
    head, questions = lines[: len(lines) - len(choices)], lines[len(lines) - len(choices) :]
    if not head or len(questions) != len(choices):
        return prompt
    width = max(map(len, questions), default=0)
    return "\n".join([*head, *(f"{line:<{width}}   <- {name}" for line, name in zip(questions, choices, strict=True))])


def read_prompt_template(experiment: Experiment) -> str:
    """Return the prompt template, which names the column of each value; "" if it was not stored."""
    path = experiment.focus.folder / SAMPLES_FILE
    return str(files.read_json(path).get("template", "")) if path.exists() else ""


def _read_answers(run: ScoredRun, ids: set[str]) -> dict[str, dict | None]:
    with open(run.folder / PREDICTIONS_FILE, encoding="utf-8") as handle:
        found = (parse_prediction(line) for line in handle)
        return {p.id: p.answer if p.answer is not None else {"": p.raw_text} for p in found if p.id in ids}


def _mark(answer: Mapping | None, sample: Mapping, run: ScoredRun) -> list[dict]:
    """Return each target's answer, and whether it equals the true text (a number that is only close does not)."""
    answer = answer or {}
    if "" in answer:
        return [{"text": f"unreadable: {answer['']!r}", "right": False}]
    return [
        {
            "text": round_like(answer.get(target) or "none", sample["target"][target]),
            "right": answer.get(target) == sample["target"][target],
        }
        for target in sample["target"]
        if target in run.metrics["targets"]
    ]


def round_like(text: str, true: str) -> str:
    """Return a number rounded to the decimals of the true one, if it has more: ("528.2857", "527") -> "528"."""
    decimals = len(true.partition(".")[2])
    if len(text.partition(".")[2]) <= decimals:
        return text
    try:
        return f"{float(text):.{decimals}f}"
    except ValueError:  # a text with a full stop
        return text


def flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested values as (name, text) lines: {"a": {"b": 0.25, "c": 2}} -> [("a", "b 0.25, c 2")]."""
    if isinstance(value, Mapping):
        if prefix and not any(isinstance(inner, Mapping) for inner in value.values()):
            leaves = [(name, text) for name, inner in value.items() for _, text in flatten(inner)]
            return [(prefix, ", ".join(f"{name} {text}" for name, text in leaves))]
        parts = [flatten(inner, f"{prefix} / {name}" if prefix else str(name)) for name, inner in value.items()]
        return [line for part in parts for line in part]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(text for inner in value for _, text in flatten(inner)))]
    if isinstance(value, float):
        return [(prefix, f"{value:.4g}")]
    return [(prefix, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))]


def build_data_card(experiment: Experiment) -> list[tuple[str, str]]:
    """Return the figures of the stage that generated the data (rows, seed, hardness); [] if no stage has any."""
    for manifest in experiment.stages:
        extra = manifest.get("extra", {})
        if extra.get("hardness"):
            rows = max((entry.get("rows") or 0 for entry in manifest["outputs"]), default=0)
            card = {"rows": rows, "seed": manifest.get("seed")}
            card |= {name: extra[name] for name in ("preset", "min_gap", "domain_mix") if name in extra}
            hardness = dict(extra["hardness"])
            if hardness.get("rows") is not None and hardness.pop("rows") != rows:
                card["rows used for the figures below"] = extra["hardness"]["rows"]
            if "bayes" in hardness:
                hardness["ceiling of the whole set (bayes_ceiling)"] = hardness.pop("bayes")
            if "pickers" in hardness:
                hardness["rules on the whole set"] = hardness.pop("pickers")
            return flatten(card | hardness)
    return []


def build_commands(experiment: Experiment) -> list[str]:
    """Return the command line of every stage."""
    return [
        " ".join(["python", f"scripts/{manifest['script']}", *map(shlex.quote, manifest["argv"])])
        for manifest in experiment.stages
    ]


def build_general(experiment: Experiment) -> dict | None:
    """Return the runs' answers to general questions, base models first; None if no run has any."""
    asked = [(run, found) for run in experiment.runs if (found := general.read(run.folder))]
    asked.sort(key=lambda pair: pair[0].role != "base")
    if not asked:
        return None
    return {
        "names": [run.name for run, _ in asked],
        "right": [f"{found['right']} of {found['n']}" for _, found in asked],
        "losses": [f"{found['loss']:.2f}" for _, found in asked],
        "lines": [
            {"question": lines[0]["question"], "expected": lines[0]["expected"],
             "answers": [{"text": line["answer"], "right": line["right"]} for line in lines]}
            for lines in zip(*(found["questions"] for _, found in asked), strict=True)
        ],
    }  # fmt: skip


def build_notes(experiment: Experiment) -> list[str]:
    """Return notes on how to read the figures of these runs."""
    reference, n = experiment.reference, experiment.reference.n
    groups, roles = reference.metrics.get("groups", n), {run.role for run in experiment.runs}
    grouped = f" Rows of one group ({groups:,} groups) are not independent, and the intervals are widened for it."
    notes = [
        f"Every figure is computed on the same {n:,} rows. With other rows of the same kind, 95 of 100 such intervals "
        f"would hold the true value. Training again with another seed adds chance that the intervals do not cover."
        + (grouped if groups < n else ""),
        "Shares have Wilson's interval and their differences Tango's; means, ratios and their differences have "
        "percentile bootstrap intervals (2,000 resamples, fixed seed).",
        "The interval of a difference is for one comparison alone; p and the verdict are corrected for all tests made, "
        "so an interval without zero may appear with “not shown”.",
        "Overlapping intervals in the first table do not show that two runs are equal: look at the difference on the "
        "same rows. If none is shown, there may still be one smaller than “n can show”.",
    ]
    notes += [f"Warning about {run.name}: {text}." for run in experiment.runs for text in run.warnings]
    if reference is comparison.best_run(experiment.runs, experiment.primary, "baseline"):
        notes.append(
            f"{reference.name} was chosen as the best baseline on these rows, so its score is slightly too good."
        )
    if "formula" in roles:
        notes.append("The formula is the one that made the labels, applied to the noisy values that a radio reports.")
    if "ceiling" in roles:
        notes.append(
            "The ceiling (bayes_ceiling) knows the formula and the noise of the reports, and assumes that all true "
            "values are equally likely. Its score here is computed on these rows; the ceiling under “The data” is for "
            "the whole set, so the two differ. On few rows the formula, or a model that learned which values are "
            "common, may score higher, by chance or by that knowledge."
        )
    if any(run.name == "boosting_pointwise" for run in experiment.runs):
        notes.append("boosting_pointwise sees the utility of every candidate in training; the others only the answer.")
    return notes


def build_plots(experiment: Experiment) -> list[dict]:
    """Return name, caption and PNG of each plot that there is data for."""
    from linklab.reports import plots

    run, made = experiment.focus, []

    def add(name: str, caption: str, png: bytes) -> None:
        made.append({"name": name, "caption": caption, "png": png})

    target, metric = experiment.primary.rsplit("/", 1)
    ladder = [r for r in order_runs(experiment.runs, experiment.primary) if r.entry(experiment.primary)]
    lines = [{"name": r.name, "role": r.role, **(r.entry(experiment.primary) or {})} for r in ladder]
    unit = " (%)" if in_percent(metric) else f" ({lines[0]['unit']})" if lines[0]["unit"] else ""
    title = f"{target}: {label(metric)}"
    add("ladder", f"{title} of every run with its 95 % interval.",
        plots.intervals_chart(lines, label(metric) + unit, in_percent(metric), title))  # fmt: skip
    for name in run.metrics["targets"]:
        rows = judged_rows(run, name)
        drawn = plots.draw_target(rows, f"{run.name}: {name}", run.name, most_classes=MAX_PLOTTED_CLASSES)
        for kind, png in drawn.items():
            add(f"{kind}_{name}", CAPTIONS[kind].format(run=run.name, target=name), png)
    if experiment.trainer_log:
        curves = plots.read_trainer_log(experiment.trainer_log)
        if any(curves.values()):
            add("loss", "Training and validation loss while fine-tuning.", plots.loss_curve(curves))
    return made


def _escape_unless_safe(value: object) -> object:
    """Return a value for a markdown template: a text is escaped, unless it is a code block already."""
    return markdown.escape(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@functools.cache
def load_template(name: str) -> jinja2.Template:
    """Return the template of a page; it escapes inserted texts for HTML or markdown."""
    import jinja2
    from markupsafe import Markup

    escaping: dict[str, Any] = {"autoescape": True} if name.endswith(".html") else {"finalize": _escape_unless_safe}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, **escaping,
    )  # fmt: skip
    environment.filters["fence"] = lambda text, language="text": Markup(markdown.fence(text, language))
    return environment.get_template(f"{name}.jinja")


def write_report(out_dir: str | Path, experiment: Experiment) -> list[Path]:
    """Write report.html (one self-contained file), report.md, comparison.md and plots/*.png; return the paths.

    The same experiment gives the same bytes: the pages contain no date and no machine.
    """
    out_dir = Path(out_dir)
    plots = build_plots(experiment)
    for plot in plots:
        plot["data"] = base64.b64encode(plot["png"]).decode("ascii")
    samples = build_samples(experiment)
    context = {
        "title": experiment.title,
        "verdict": make_verdict(experiment),
        "n": experiment.reference.n,
        "groups": experiment.reference.metrics.get("groups", experiment.reference.n),
        "split": experiment.reference.metrics.get("split", "test"),
        "reference": experiment.reference.name,
        "table": build_table(experiment.runs, experiment.primary),
        "differences": build_differences(experiment),
        "tests": sum(result.p_holm is not None for result in experiment.differences),
        "costs": build_costs(experiment),
        "cost_note": COST_NOTE,
        "plots": plots,
        "samples": samples,
        "names_choices": any(sample["names_choices"] for sample in samples),
        "prompt_template": read_prompt_template(experiment),
        "general": build_general(experiment),
        "data_card": build_data_card(experiment),
        "commands": build_commands(experiment),
        "notes": build_notes(experiment),
    }
    written = []
    for name in ("report.html", "report.md", "comparison.md"):
        files.write_text(out_dir / name, load_template(name).render(context))
        written.append(out_dir / name)
    from linklab.reports.plots import write_png

    for plot in plots:
        write_png(out_dir / "plots" / f"{plot['name']}.png", plot["png"])
        written.append(out_dir / "plots" / f"{plot['name']}.png")
    return written
