"""Plots of studies, in the style of reports/plots.py: readable in black and white, same bytes for the same input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from linklab.reports import tables
from linklab.reports.plots import GREY, INK, PALE, YELLOW
from linklab.reports.plots import draw_png as draw_png
from linklab.studies.learning_curve import MetricCurve

LINES = [("s", "--"), ("^", "-."), ("v", ":"), ("P", (0, (5, 1, 1, 1, 1, 1))), ("X", (0, (1, 3)))]  # for baselines
BEYOND = 3  # the law is drawn up to this many times the largest size
DARKS = ["#5c5c5c", "#8a8a86", "#3a3a3a", "#a5a5a0", "#707070"]


def learning_curve(curve: MetricCurve) -> bytes:
    """Return a plot of the model's values over training rows, with intervals, law and band, baselines, ceiling."""
    name = curve.metric.rsplit("/", 1)[1]
    scale = 100 if curve.is_share else 1
    sizes = np.array(curve.sizes, dtype=float)

    def draw(figure: Any, axes: Any) -> None:
        if not isinstance(curve.fitted, str):
            rows = np.geomspace(sizes.min(), sizes.max() * BEYOND, 80)
            low, high = (scale * curve.value(error) for error in curve.fitted.band(rows))
            seen = rows <= sizes.max()
            axes.fill_between(rows, low, high, color=PALE, linewidth=0, label="law, 95 %", alpha=0.7)
            law = scale * curve.value(curve.fitted.law.error(rows))
            axes.plot(rows[seen], law[seen], color=INK, linewidth=1.6, label="fitted power law")
            axes.plot(rows[~seen], law[~seen], color=INK, linewidth=1.2, linestyle=(0, (2, 2)), label="beyond the data")
        for (beside, found), (mark, line), dark in zip(sorted(curve.beside.items()), LINES, DARKS, strict=False):
            axes.plot(*zip(*[(n, scale * value) for n, value in found], strict=True), color=dark, marker=mark,
                      markersize=4.5, linestyle=line, linewidth=1, label=beside)  # fmt: skip
        if curve.ceiling is not None:
            axes.axhline(scale * curve.ceiling, color="black", linewidth=1, linestyle=":", label="ceiling")
        for rows, values in zip(sizes, curve.seeds, strict=True):
            axes.plot([rows] * len(values), np.array(values) * scale, color=GREY, marker="_", markersize=7,
                      linestyle="", label="one seed" if rows == sizes[0] else None)  # fmt: skip
        means, ends = np.array(curve.means) * scale, np.array(curve.ends).T * scale
        axes.errorbar(sizes, means, yerr=np.abs(ends - means), color=INK, marker="D", markersize=6, linestyle="",
                      markerfacecolor=YELLOW, capsize=3, linewidth=1.4, label="model, 95 %", zorder=5)  # fmt: skip
        axes.set_xscale("log")
        shown = [*sizes, *([] if isinstance(curve.fitted, str) else [sizes.max() * BEYOND])]
        axes.set_xticks(shown, [f"{int(rows):,}" for rows in shown])
        axes.minorticks_off()
        axes.set_xlabel("training rows (logarithmic)")
        axes.set_ylabel(f"{tables.label(name)}, {'%' if curve.is_share else curve.unit}".removesuffix(", "))
        axes.set_ylim(bottom=0, top=100 if curve.is_share else None)
        axes.set_title(curve.metric.rsplit("/", 1)[0])
        axes.grid(color=PALE, linewidth=0.5)
        figure.legend(loc="outside right upper")

    return draw_png((7.6, 4.0), draw)


def importances(shares: dict[str, float], n: int) -> bytes:
    """Return a plot with a bar per setting: its share of the variation of results over `n` trials."""
    names = sorted(shares, key=lambda name: shares[name])

    def draw(figure: Any, axes: Any) -> None:
        values = [100 * shares[name] for name in names]
        axes.barh(range(len(names)), values, color=GREY, edgecolor=INK, height=0.6)
        for y, value in enumerate(values):
            axes.text(value + 1, y, f"{value:.0f} %", va="center")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, 112)
        axes.set_xlabel(f"share of the variation explained, % ({n} trials)")
        axes.set_title("Which settings matter")
        axes.tick_params(axis="y", length=0)

    return draw_png((5.6, 1.1 + 0.32 * len(names)), draw)


def parallel_coordinates(
    axes_of: Sequence[dict], trials: Sequence[dict], label: str, *, lower_is_better: bool = True
) -> bytes:
    """Return a plot with one line per trial, over one axis per setting and the result at the right; darker is better.

    `axes_of` holds name, ticks (position 0..1, text); `trials` hold `at` (positions, one per setting), `value` and
    `pruned`. A trial stopped early has no result to compare: its line ends before the last axis. If results differ more
    than fivefold, their axis is logarithmic, so that one bad trial does not squeeze the others together.
    """
    done = sorted((trial for trial in trials if not trial["pruned"]), key=lambda trial: trial["value"])
    done = done if lower_is_better else done[::-1]
    values = [trial["value"] for trial in done]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    by_log = low > 0 and high > 5 * low
    turn: Callable
    back: Callable
    turn, back = (np.log, np.exp) if by_log else (float, float)
    span = (turn(high) - turn(low)) or 1.0

    def height(value: float) -> float:
        at = (turn(value) - turn(low)) / span
        return 1 - at if lower_is_better else at

    def draw(figure: Any, axes: Any) -> None:
        last = len(axes_of)
        note = {"textcoords": "offset points", "va": "center", "fontsize": 8, "zorder": 20}
        note["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        for rank, trial in reversed(list(enumerate(done))):
            shade = 0.75 * rank / max(len(done) - 1, 1)
            points = [*trial["at"], height(trial["value"])]
            best = rank == 0
            look = {"color": str(0.15 + shade), "linewidth": 1.1, "marker": "o", "markersize": 3.5}
            if best:
                look = {"color": "black", "linewidth": 3, "marker": "D", "markersize": 7, "markerfacecolor": YELLOW}
            axes.plot(range(last + 1), points, zorder=10 - rank / 100, label="best" if best else None, **look)
        for k, trial in enumerate(trial for trial in trials if trial["pruned"]):
            axes.plot(range(last), trial["at"], color="0.6", linewidth=0.9, linestyle=":", marker="x", markersize=4,
                      zorder=1, label="stopped early" if k == 0 else None)  # fmt: skip
        for x, axis in enumerate(axes_of):
            axes.axvline(x, color=GREY, linewidth=0.8, zorder=0)
            for at, text in axis["ticks"]:
                axes.annotate(text, (x, at), xytext=(-5, 0), ha="right", **note)
        axes.axvline(last, color=INK, linewidth=1.4, zorder=0)
        for part in (0.0, 0.5, 1.0) if values else ():
            value = back(turn(low) + span * (1 - part if lower_is_better else part))
            axes.annotate(
                f"{value:.4g}", (last, part), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_xticks(range(last + 1), [*(axis["name"] for axis in axes_of), label])
        axes.set_yticks([])
        axes.set_xlim(-0.6, last + 0.5)
        axes.set_ylim(-0.08, 1.08)
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="x", length=0)
        axes.set_title(f"Trials: darker is better; {label} improves upwards")
        figure.legend(loc="outside lower center", ncols=2)

    return draw_png((2.4 + 1.5 * len(axes_of), 4.2), draw)
