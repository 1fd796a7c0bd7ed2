"""The verdict in words: did training help, is the model better than simple methods, and what to do next."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from linklab.metrics import comparison, intervals
from linklab.metrics.comparison import Difference, ScoredRun
from linklab.reports.tables import Experiment, format_difference, format_interval, format_p, format_value, label

ROLE_NAMES = {
    "tuned": "tuned model",
    "base": "base model",
    "rule": "best simple rule",
    "baseline": "best baseline",
    "formula": "formula",
    "ceiling": "ceiling of these rows",
}
LEARNED = ("boosting_", "text_", "nearest_")  # name prefixes of baselines that learn from columns; the rest are rules
SAME_ANSWER_SHARE = 0.95  # share of rows with the same answer from which the report warns
FALLING = 0.01  # relative fall of the validation loss in the last quarter that counts as falling


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The start of a report: the scores in one sentence, warnings, and questions with their answers."""

    scores: str
    warnings: Sequence[str]
    answers: Sequence[tuple[str, str]]  # (question, answer)

    def __str__(self) -> str:
        return "\n".join([self.scores, *self.warnings, *(f"{question} {answer}" for question, answer in self.answers)])


def make_verdict(experiment: Experiment) -> Verdict:
    """Return the verdict about the candidate; without a candidate (only baselines), only the scores.

    It uses planned comparisons: the candidate against its base, the best simple rule and the reference, in the primary
    metric. Their p-values are corrected for each other (Holm), not for the tests of the table. What the candidate adds
    to a baseline is one more planned question with its own p-value.
    """
    shown = find_shown(experiment)
    answers: list[tuple[str, str]] = []
    candidate = experiment.candidate
    if candidate and candidate.entry(experiment.primary):
        others = {role: shown[role] for role in ("base", "rule")}
        others["rival"] = experiment.reference if experiment.reference.role != "base" else None
        found = compare_planned(candidate, others, experiment.primary, seed=experiment.seed)
        answers += [
            ("Did training help?", say_training_helped(experiment, found.get("base"))),
            ("Is it better than what it has to beat?", say_better(experiment, found)),
            ("What next?", say_next(experiment, found)),
        ]
    answers += say_blend(experiment)
    answers += say_above_ceiling(experiment, shown)
    models = [run for run in experiment.runs if run.role in ("tuned", "base")]
    warnings = [text for run in models for text in find_same_answers(run)]
    warnings += [f"Warning: {run.name}: {text}." for run in models for text in run.warnings]
    warnings += find_restricted_and_free(experiment.runs)
    return Verdict(say_scores(experiment, shown), warnings, answers)


def find_shown(experiment: Experiment) -> dict[str, ScoredRun | None]:
    """Return the run of each role that the verdict names."""
    runs, primary = experiment.runs, experiment.primary
    rules = [run for run in runs if run.role == "baseline" and not run.name.startswith(LEARNED)]
    shown = {role: comparison.first_of_role(runs, role) for role in ("tuned", "base", "formula", "ceiling")}
    shown["tuned"] = experiment.candidate
    shown["rule"] = comparison.best_run(rules, primary)
    shown["baseline"] = comparison.best_run(runs, primary, "baseline")
    if shown["rule"] is shown["baseline"]:
        shown["rule"] = None
    return {role: shown[role] for role in ROLE_NAMES}


def say_scores(experiment: Experiment, shown: dict[str, ScoredRun | None]) -> str:
    """Return one sentence with the score of each role on the same rows."""
    target, metric = experiment.primary.rsplit("/", 1)
    kind = "training" if experiment.reference.metrics.get("split") == "train" else "unseen"
    parts = []
    for role, run in shown.items():
        entry = run and run.entry(experiment.primary)
        if run and entry:
            name = f"{ROLE_NAMES[role]} {run.name}" if role in ("rule", "baseline") else ROLE_NAMES[role]
            value = format_value(metric, entry["value"]) + (f" {entry['unit']}" if entry["unit"] else "")
            parts.append(f"{name} {value} {format_interval(metric, entry['low'], entry['high'])}".rstrip())
    rows = f"on n = {experiment.reference.n:,} {kind} rows (95 % intervals)"
    return f"{target} {label(metric)} {rows}: {', '.join(parts)}."


def compare_planned(
    candidate: ScoredRun, others: dict[str, ScoredRun | None], metric: str, *, seed: int = 0
) -> dict[str, Difference]:
    """Return candidate minus each other run in one metric, with p-values adjusted over these comparisons only."""
    found: dict[str, Difference] = {}
    of_run: dict[str, Difference] = {}
    for name, other in others.items():
        if other is None or other is candidate or metric not in other.columns or metric not in candidate.columns:
            continue
        if other.name not in of_run:
            pair = [dataclasses.replace(run, columns={metric: run.columns[metric]}) for run in (candidate, other)]
            of_run[other.name] = comparison.compare_to(pair, pair[1], seed=seed)[0]
        found[name] = of_run[other.name]
    tested = [result for result in of_run.values() if result.p is not None]
    for result, adjusted in zip(tested, intervals.holm([result.p or 0.0 for result in tested]), strict=True):
        result.p_holm = adjusted
    return found


def say_training_helped(experiment: Experiment, result: Difference | None) -> str:
    """Answer the first question: did training help?"""
    if result is None:
        return "Not known: score the base model too (evaluate_model.py --model BASE) and add its folder."
    words = {"better": "Yes", "worse": "No", "no difference shown": "Not shown"}
    return f"{words[result.outcome]}: {say_difference(experiment, result, 'the base model')}."


def say_better(experiment: Experiment, found: dict[str, Difference]) -> str:
    """Answer the second question: against the best simple rule, and against the reference (the best baseline)."""
    results = {found[role].reference: found[role] for role in ("rule", "rival") if role in found}
    if not results:
        return "Not known: run run_baselines.py on the same rows and add its folder."
    verdicts = {result.outcome for result in results.values()}
    word = "Yes" if verdicts == {"better"} else "In part" if "better" in verdicts else "No"
    if verdicts == {"no difference shown"}:
        word = "Not shown"
    return f"{word}: {'; '.join(say_difference(experiment, result, name) for name, result in results.items())}."


def say_p(p: float | None) -> str:
    """Return a p-value for a sentence: `p < 0.001`, `p = 0.042`."""
    return f"p {format_p(p)}" if (p or 0.0) < 0.001 else f"p = {format_p(p)}"


def say_difference(experiment: Experiment, result: Difference, whom: str) -> str:
    """Return "better than X by 3.1 points (…, p = 0.004)", or "no difference from X shown" with what n can show."""
    metric = result.metric.rsplit("/", 1)[1]
    unit = experiment.reference.unit(result.metric)
    p = say_p(result.p_holm)
    ends = format_interval(metric, result.low, result.high, signed=True)
    if result.outcome != "no difference shown":
        size = format_difference(metric, abs(result.difference), unit).lstrip("+")
        sure = ", ".join(filter(None, [f"difference {ends}" if ends else "", p]))
        return f"{result.outcome} than {whom} by {size} ({sure})"
    size = format_difference(metric, result.difference, unit)
    notes = [f"difference {size} {ends}".rstrip(), p]
    if not math.isnan(result.low) and (result.low > 0 or result.high < 0):
        notes.append("the interval is for this comparison alone, p is corrected for all three")
    if not math.isnan(result.detectable):
        limit = format_difference(metric, result.detectable, unit).lstrip("+")
        notes.append(f"{result.n:,} rows can only show {limit} or more")
    return f"no difference from {whom} shown ({'; '.join(notes)})"


def say_next(experiment: Experiment, found: dict[str, Difference]) -> str:
    """Answer the third question from the comparisons, the loss curve and the learning curve, if there is one."""
    rival, base = found.get("rival"), found.get("base")
    candidate = experiment.candidate
    assert candidate is not None
    steps = []
    if find_same_answers(candidate):
        steps.append("train longer or on more rows, and look at the loss curve: the model ignores its input")
    elif rival is None:
        steps.append("compare it with baselines before you use it")
    elif rival.outcome == "better":
        steps.append("use the tuned model; train with a second seed to see how much of the lead is chance")
    elif rival.outcome == "no difference shown":
        steps.append(f"use whichever is cheaper to run, or score more rows to tell it from {rival.reference}")
    else:
        steps.append(f"use {rival.reference} for now")
    if rival is None or rival.outcome != "better":
        steps += say_training_step(experiment, base)
    curve = [line for stage in experiment.stages for line in stage.get("extra", {}).get("findings", [])]
    if curve:
        steps.append("the learning curve says: " + " ".join(curve).rstrip("."))
    text = "; ".join(steps)
    return f"{text[0].upper()}{text[1:]}."


def say_training_step(experiment: Experiment, base: Difference | None) -> list[str]:
    """Return advice about more epochs and more rows, from the loss curve."""
    falling = is_loss_falling(experiment)
    if falling:
        return ["the validation loss was still falling when training ended: more passes (--epochs) or more rows help"]
    if falling is False and base is not None and base.outcome == "better":
        return ["the validation loss had stopped falling: more passes will not help, more rows may "
                "(run_learning_curve.py says how many)"]  # fmt: skip
    return ["try more rows (run_learning_curve.py says how many), then more passes (--epochs)"]


def is_loss_falling(experiment: Experiment) -> bool | None:
    """Say whether the validation loss fell in the last quarter of the training; None without a log."""
    if experiment.trainer_log is None:
        return None
    from linklab.reports.plots import read_trainer_log

    points = read_trainer_log(experiment.trainer_log)["validation_loss"]
    if len(points) < 3:
        return None
    late = 0.75 * points[-1][0]
    before = min(loss for step, loss in points if step <= late) if points[0][0] <= late else points[0][1]
    return min(loss for step, loss in points if step > late) < (1 - FALLING) * before


def say_blend(experiment: Experiment) -> list[tuple[str, str]]:
    """Say whether candidate and baseline together beat the better of the two: then each knows something of its own."""
    blend, primary = experiment.blend, experiment.primary
    if blend is None:
        return []
    better = comparison.best_run([blend.rival, blend.model], primary)
    assert better is not None
    other = blend.model if better is blend.rival else blend.rival
    result = compare_planned(blend.run, {"better": better}, primary, seed=experiment.seed)["better"]
    metric, unit = primary.rsplit("/", 1)[1], experiment.reference.unit(primary)
    ends = format_interval(metric, result.low, result.high, signed=True)
    p = say_p(result.p)
    size = format_difference(metric, abs(result.difference), unit).lstrip("+")
    adding = f"adding {other.name} to {better.name}"
    if result.outcome == "no difference shown":
        shown = f"difference {format_difference(metric, result.difference, unit)} {ends}".rstrip()
        limit = format_difference(metric, result.detectable, unit).lstrip("+")
        notes = [shown, p] + ([] if math.isnan(result.detectable) else [f"{result.n:,} rows can only show {limit}"])
        answer = f"Not shown: {adding} adds nothing that this sample can show ({'; '.join(notes)})"
    else:
        sure = ", ".join(filter(None, [f"difference {ends}" if ends else "", p]))
        gains = result.outcome == "better"
        answer = f"{'Yes' if gains else 'No'}: {adding} {'gains' if gains else 'loses'} {size} ({sure})"
        answer += f": it knows something that {better.name} does not" if gains else ""
    question = f"Do {blend.model.name} and {blend.rival.name} know different things?"
    return [(question, f"{answer}. Weights fitted on {blend.validation_rows:,} validation rows.")]


def say_above_ceiling(experiment: Experiment, shown: dict[str, ScoredRun | None]) -> list[tuple[str, str]]:
    """Explain a score above the ceiling, if there is one: both are estimates on the same few rows."""
    ceiling, primary = shown["ceiling"], experiment.primary
    top = ceiling and ceiling.entry(primary)
    if not ceiling or not top:
        return []
    above = [
        run
        for run in experiment.runs
        if run is not ceiling
        and (entry := run.entry(primary))
        and comparison.is_better(primary, entry["value"] - top["value"])
    ]
    best = comparison.best_run(above, primary)
    if best is None:
        return []
    result = compare_planned(best, {"ceiling": ceiling}, primary, seed=experiment.seed)["ceiling"]
    metric = primary.rsplit("/", 1)[1]
    size = format_difference(metric, abs(result.difference), experiment.reference.unit(primary)).lstrip("+")
    reason = {
        "no difference shown": "the difference is within chance",
        "better": "it learned from many rows which values are common, while for the ceiling all are equally likely",
    }.get(result.outcome, "")
    answer = (
        f"The ceiling is what the best possible rule would score on average over many sets; on these {result.n:,} rows "
        f"{best.name} scored {size} more (p = {format_p(result.p_holm)}): {reason}."
    )
    return [(f"Why is {best.name} above the ceiling?", answer)]


def find_restricted_and_free(runs: Sequence[ScoredRun]) -> list[str]:
    """Return a warning for each model whose 95 % intervals of accuracy, restricted to legal answers and writing freely,
    do not overlap: then one of the two figures is not what the model's user will see.
    """
    found = []
    pairs = [(restricted, free) for restricted in runs for free in runs if _is_restricted_and_free(restricted, free)]
    for restricted, free in pairs:
        for target in restricted.metrics["targets"]:
            one, other = restricted.entry(f"{target}/accuracy"), free.entry(f"{target}/accuracy")
            if one is None or other is None or not (one["low"] > other["high"] or one["high"] < other["low"]):
                continue
            shown = [f"{format_value('accuracy', e['value'])} {format_interval('accuracy', e['low'], e['high'])}"
                     for e in (one, other)]  # fmt: skip
            if one["value"] > other["value"]:
                advice = "a program that lets it write freely gets the lower figure; train longer, or restrict it too"
            elif restricted.metrics["asked"]["rank_by"] == "summed":
                advice = "ranking by summed probability favours short labels; score again with --rank-by written"
            else:
                advice = "it writes what it does not rank first; train longer before you trust the ranking"
            found.append(
                f"Warning: {target} accuracy of {restricted.name} is {shown[0]} restricted to the legal answers, and "
                f"{shown[1]} writing freely ({free.name}): {advice}."
            )
    return found


def _is_restricted_and_free(restricted: ScoredRun, free: ScoredRun) -> bool:
    one, other = restricted.metrics.get("asked") or {}, free.metrics.get("asked") or {}
    return bool(one and other) and one["model"] == other["model"] and not one["free"] and other["free"]


def find_same_answers(run: ScoredRun) -> list[str]:
    """Return a warning for each target with the same answer on nearly all rows while the truth varies."""
    found = []
    for target in run.metrics["targets"]:
        answers, truth = run.texts[f"{target}/answer"], run.texts[f"{target}/true"]
        text, count = Counter(answers).most_common(1)[0]
        right = Counter(truth)[text]
        if text and count >= SAME_ANSWER_SHARE * run.n and right < SAME_ANSWER_SHARE * count:
            found.append(
                f"Warning: {run.name} answers {target} = {text!r} on {count:,} of {run.n:,} rows, of which {right:,} "
                f"have that value: it does not look at the row."
            )
    return found
