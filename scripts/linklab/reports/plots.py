"""Plots as PNG bytes: readable in black and white and for the colour-blind, the same bytes for the same input.

Marks differ in shape and lightness, not only in colour; the colours are those of cividis.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from linklab import files
from linklab.cli import UserError
from linklab.metrics.intervals import wilson
from linklab.metrics.metric_table import BINS, confidence_bins, label_order
from linklab.metrics.row_scores import INVALID, JudgedRows

DPI = 150
INK, GREY, PALE, YELLOW = "#00224e", "#7d7c78", "#d5d5d2", "#e1c84f"
MARKS = {"tuned": "D", "base": "s", "blend": "P", "baseline": "o", "formula": "^", "ceiling": "*"}
MAX_CLASSES = 24  # shown in a confusion matrix; the rest become "other"
_STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def _wrap(title: str) -> str:
    """Return a title with line breaks for a small plot; matplotlib would cut a long title off at the edge."""
    return textwrap.fill(title, width=38)


def draw_png(size: tuple[float, float], draw: Callable[[Figure, Any], None], **grid: Any) -> bytes:
    """Return a PNG of a figure of `size` inches that `draw(figure, axes)` draws."""
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, figure.subplots(**grid))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})  # no version: same bytes everywhere
    return buffer.getvalue()


def confusion_matrix(truth: Sequence[str], answers: Sequence[str], title: str) -> bytes:
    """Return a heat map: the answers to each true class as shares of its rows; "" or INVALID means no answer."""
    answers = ["" if name == INVALID else name for name in answers]
    common = [name for name, _ in Counter(truth).most_common(MAX_CLASSES)]
    labels = sorted(common, key=label_order)
    if set(truth) | set(answers) - {""} > set(labels):
        labels.append("other")
    truth = [name if name in common else "other" for name in truth]
    answers = ["invalid" if name == "" else name if name in common else "other" for name in answers]
    columns = labels + (["invalid"] if "invalid" in answers else [])
    place = {name: at for at, name in enumerate(columns)}
    counts = np.zeros((len(labels), len(columns)), int)
    np.add.at(counts, ([place[name] for name in truth], [place[name] for name in answers]), 1)
    rows = counts.sum(axis=1)
    shares = counts / np.maximum(rows, 1)[:, None]

    def draw(figure: Figure, axes: Any) -> None:
        # Reversed colours: darker is more; a pair that never occurs stays white.
        image = axes.imshow(np.ma.masked_equal(shares, 0), cmap="cividis_r", vmin=0, vmax=1)
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(labels) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=PALE, linewidth=0.4)
        axes.set_xticks(range(len(columns)), columns, rotation=90)
        axes.set_yticks(range(len(labels)), [f"{label} ({n})" for label, n in zip(labels, rows, strict=True)])
        axes.set_xlabel("answered")
        axes.set_ylabel("true (rows)")
        axes.set_title(title)
        axes.spines[:].set_visible(False)
        axes.tick_params(which="both", length=0)
        if len(labels) <= 12:
            for i, j in np.argwhere(counts > 0):
                colour = "white" if shares[i, j] > 0.55 else "black"
                axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=8)
        figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class's rows")

    side = 2.6 + 0.21 * len(labels)
    return draw_png((side + 1.2, side), draw)


def read_trainer_log(path: str | Path) -> dict[str, list[tuple[float, float]]]:
    """Return the (step, loss) pairs of "train_loss" and "validation_loss" in a trainer_log.csv, without empty cells."""
    path = files.require_file(path)
    curves: dict[str, list[tuple[float, float]]] = {"train_loss": [], "validation_loss": []}
    with open(path, encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        if "step" not in (reader.fieldnames or []):
            raise UserError(f"{path}: no column 'step'; found {', '.join(reader.fieldnames or [])}")
        for line in reader:
            for name, points in curves.items():
                if line.get(name):
                    try:
                        points.append((float(line["step"]), float(line[name])))
                    except ValueError as error:
                        raise UserError(f"{path}:{reader.line_num}: {error}") from error
    return curves


def loss_curve(curves: dict[str, list[tuple[float, float]]], title: str = "Loss during fine-tuning") -> bytes:
    """Return a plot of train and validation loss over optimizer steps."""
    looks = {
        "train_loss": {"color": GREY, "linewidth": 1, "label": "train"},
        "validation_loss": {"color": INK, "linewidth": 1.8, "marker": "o", "markersize": 4, "label": "validation"},
    }

    def draw(figure: Figure, axes: Any, title: str = title) -> None:
        for name, points in curves.items():
            if points:
                axes.plot(*zip(*points, strict=True), **looks[name])
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel("loss per answer token (nats)")
        # The first losses may be ten times the rest: the axis fits the losses after the first tenth of the steps.
        last = max((step for points in curves.values() for step, _ in points), default=0)
        after = [loss for name, points in curves.items() for step, loss in points
                 if name == "validation_loss" or step > last / 10]  # fmt: skip
        top = 1.15 * max((loss for loss in after if math.isfinite(loss)), default=1.0) or 1.0
        axes.set_ylim(0, top)
        if curves["train_loss"] and (first := curves["train_loss"][0][1]) > top:
            title = f"{title} (first training loss: {first:.1f})"
        axes.set_title(title)
        axes.grid(color=PALE, linewidth=0.5)
        axes.legend()

    return draw_png((5.2, 3.4), draw)


def reliability(confidences: np.ndarray, right: np.ndarray, title: str) -> bytes:
    """Return a plot of accuracy against stated probability in ten bins, with the number of answers below."""
    bins = confidence_bins(confidences)
    counts = np.bincount(bins, minlength=BINS)
    used = counts > 0
    sure = np.bincount(bins, weights=confidences, minlength=BINS)[used] / counts[used]
    share = np.bincount(bins, weights=right, minlength=BINS)[used] / counts[used]
    ends = np.array([wilson(hits * n, n) for hits, n in zip(share, counts[used], strict=True)])

    def draw(figure: Figure, axes: Any) -> None:
        upper, lower = axes
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="right as often as stated")
        upper.vlines(sure, ends[:, 0], ends[:, 1], color=INK, linewidth=1)
        upper.plot(sure, share, color=INK, marker="o", markersize=5, linestyle="", label="answers, 95 %")
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right", title=_wrap(title))
        upper.grid(color=PALE, linewidth=0.5)
        figure.legend(loc="outside upper right", ncols=2)
        lower.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.09, color=PALE, edgecolor=INK)
        lower.set(xlim=(0, 1), xlabel="probability given to the answer", ylabel="answers")

    return draw_png((4.2, 4.6), draw, nrows=2, height_ratios=[3, 1])


def predicted_against_true(truth: np.ndarray, answers: np.ndarray, unit: str, title: str) -> bytes:
    """Return a scatter plot with the line of equality and a 10 % band; rows without an answer (NaN) are left out."""
    shown = ~np.isnan(answers)
    low = float(min(0.0, truth.min(), np.nanmin(answers, initial=0.0)))
    high = float(max(truth.max(), np.nanmax(answers, initial=low))) * 1.03 or 1.0
    line = np.array([low, high])

    def draw(figure: Figure, axes: Any) -> None:
        axes.fill_between(line, 0.9 * line, 1.1 * line, color=PALE, label="within 10 %", linewidth=0)
        axes.plot(line, line, color=GREY, linewidth=1, linestyle="--", label="equal")
        axes.scatter(truth[shown], answers[shown], s=9, color=INK, alpha=0.45, linewidths=0, label="rows")
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", title=_wrap(title))
        axes.set_xlabel(f"true {unit}".strip())
        axes.set_ylabel(f"predicted {unit}".strip())
        figure.legend(loc="outside lower center", ncols=3)

    return draw_png((4.4, 4.8), draw)


def draw_target(rows: JudgedRows, title: str, who: str, *, most_classes: float = math.inf) -> dict[str, bytes]:
    """Return the plots of a target by name: "confusion" and "reliability" for a class, "predicted" for a number.

    "confusion" is left out for more than `most_classes` true classes.
    """
    if rows.kind == "number":
        truth, answers = np.asarray(rows.truth), np.asarray(rows.answers)
        return {"predicted": predicted_against_true(truth, answers, rows.unit, title)}
    drawn = {}
    if rows.kind == "class":
        if len(set(rows.truth)) <= most_classes:
            drawn["confusion"] = confusion_matrix(rows.truth, rows.answers, title)
        if rows.confidences is not None:
            drawn["reliability"] = reliability(rows.confidences, rows.columns["accuracy"], f"{who}: calibration")
    return drawn


def intervals_chart(lines: Sequence[dict], label: str, percent: bool, title: str) -> bytes:
    """Return a plot with one dot and its interval per run, in the order of `lines` (name, role, value, low, high)."""
    scale = 100 if percent else 1

    def draw(figure: Figure, axes: Any) -> None:
        for y, line in enumerate(reversed(lines)):
            own = line["role"] in ("tuned", "base")
            colour = INK if own or line["role"] == "ceiling" else GREY
            if line["low"] is not None:
                ends = [scale * line["low"], scale * line["high"]]
                axes.plot(ends, [y, y], color=colour, linewidth=3 if own else 1.6, solid_capstyle="butt")
            axes.plot(
                scale * line["value"], y, marker=MARKS[line["role"]], color=colour, markersize=8 if own else 6,
                markerfacecolor=YELLOW if line["role"] == "tuned" else colour, markeredgecolor=colour,
            )  # fmt: skip
            if line["role"] == "ceiling":
                axes.axvline(scale * line["value"], color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        axes.set_yticks(range(len(lines)), [line["name"] for line in reversed(lines)])
        for text, line in zip(axes.get_yticklabels(), reversed(lines), strict=True):
            text.set_fontweight("bold" if line["role"] in ("tuned", "base") else "normal")
        axes.set_xlabel(label)
        axes.set_title(title)
        axes.set_xlim(left=0, right=100 if percent else None)
        axes.set_ylim(-0.7, len(lines) - 0.3)
        axes.grid(axis="x", color=PALE, linewidth=0.5)
        axes.tick_params(axis="y", length=0)
        roles = [role for role in MARKS if any(line["role"] == role for line in lines)]
        drawn = {role: INK if role in ("tuned", "base", "ceiling") else GREY for role in roles}  # as above
        shapes = [
            Line2D([], [], color=drawn[role], marker=MARKS[role], linestyle="", label=role,
                   markerfacecolor=YELLOW if role == "tuned" else drawn[role])
            for role in roles
        ]  # fmt: skip
        bar = Line2D([], [], color=GREY, linewidth=1.6, label="95 % interval")
        figure.legend(handles=[*shapes, bar], loc="outside lower center", ncols=len(roles) + 1)

    return draw_png((7.6, 1.2 + 0.27 * len(lines)), draw)


def write_target_plots(folder: Path, judged: Iterable[JudgedRows]) -> list[str]:
    """Write the plots of each target and return the names of the files, sorted."""
    names = []
    for rows in judged:
        for name, picture in draw_target(rows, rows.target, rows.target).items():
            names.append(f"{name}_{rows.target}.png")
            write_png(folder / names[-1], picture)
    return sorted(names)


def write_png(path: str | Path, png: bytes) -> None:
    """Write a plot atomically."""
    with files.atomic_write(path, binary=True) as handle:
        handle.write(png)
