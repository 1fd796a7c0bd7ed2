"""All metrics in one table: name, label, unit, direction, interval and computation.

A metric is the mean of a column of per-row scores (`row_scores`), or, if it has a `statistic`, a function of all
rows, such as RMSE. To add one: write its column or its statistic, and add its line here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from linklab.cli import UserError
from linklab.metrics.row_scores import INVALID, JudgedRows

Statistic = Callable[[np.ndarray], np.ndarray]  # counts (resamples, rows) -> one value per resample
BINS = 10  # of confidence, in the reliability plot and the calibration error
TARGET_UNIT = "of the target"
PERCENT = "%"
_TOP_K = re.compile(r"top([1-9][0-9]*)_accuracy")


def occurring_labels(rows: JudgedRows) -> list[str]:
    """Return the classes that occur in truth or legal answers, sorted; numbers by size."""
    labels = {*rows.truth, *rows.answers} - {INVALID}
    return sorted(labels, key=label_order)


def label_order(text: str) -> tuple[int, float, str]:
    """Sort key that puts 5180 before 10000 and numbers before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def confidence_bins(confidences: np.ndarray) -> np.ndarray:
    """Return each confidence's bin, 0 to BINS - 1; a bin holds its upper end.

    Rounded to 1e-9 first: 1/10 written to a file and read again must not change its bin.
    """
    return np.clip(np.ceil(np.round(np.asarray(confidences) * BINS, 9)).astype(int) - 1, 0, BINS - 1)


def macro_f1(rows: JudgedRows) -> Statistic:
    """F1 averaged over the classes that occur in the drawn rows."""
    labels = np.array(occurring_labels(rows))
    true = (np.array(rows.truth)[:, None] == labels).astype(float)  # (rows, classes)
    answered = (np.array(rows.answers)[:, None] == labels).astype(float)

    def statistic(counts: np.ndarray) -> np.ndarray:
        hits, occurring = counts @ (true * answered), counts @ true + counts @ answered
        f1 = np.divide(2 * hits, occurring, out=np.zeros_like(hits), where=occurring > 0)
        return f1.sum(axis=1) / (occurring > 0).sum(axis=1)

    return statistic


def calibration_error(rows: JudgedRows) -> Statistic | None:
    """Mean gap between confidence and accuracy over ten bins of confidence; None without probabilities."""
    if rows.confidences is None:
        return None
    gaps = (rows.columns["accuracy"] - rows.confidences)[:, None]
    gaps = gaps * (confidence_bins(rows.confidences)[:, None] == np.arange(BINS))
    return lambda counts: np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1)


def root_mean_squared_error(rows: JudgedRows) -> Statistic:
    """Root of the mean squared error; an invalid answer counts as 0."""
    errors = rows.columns["mae"]
    return lambda counts: np.sqrt(counts @ errors**2 / counts.sum(axis=1))


def r_squared(rows: JudgedRows) -> Statistic | None:
    """Coefficient of determination, as scikit-learn's r2_score; None for a single row."""
    if len(rows.truth) < 2:
        return None
    truth, errors = np.array(rows.truth), rows.columns["mae"]
    centred = truth - truth.mean()  # the spread stays the same, and squares of large numbers do not lose digits

    def statistic(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(axis=1)
        spread = counts @ centred**2 - (counts @ centred) ** 2 / total
        loss = counts @ errors**2
        # Rounding leaves a constant's spread at about 1e-16 of its squares; scikit-learn gives 0 then, or 1 if perfect.
        constant = spread <= 1e-12 * np.maximum(counts @ centred**2, np.finfo(float).tiny)
        ratio = np.divide(loss, spread, out=np.zeros_like(loss), where=~constant)
        return np.where(constant, np.where(loss == 0, 1.0, 0.0), 1 - ratio)

    return statistic


def median_absolute_error(rows: JudgedRows) -> Statistic:
    """Median of the absolute errors; of an even number of rows the mean of the middle two."""
    errors = rows.columns["mae"]
    order = np.argsort(errors, kind="stable")

    def statistic(counts: np.ndarray) -> np.ndarray:
        passed = np.cumsum(counts[:, order], axis=1)  # rows drawn with an error up to each
        total = passed[:, -1:]
        below, above = (passed >= np.floor((total + 1) / 2)), (passed >= np.floor(total / 2) + 1)
        return (errors[order][below.argmax(axis=1)] + errors[order][above.argmax(axis=1)]) / 2

    return statistic


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric: `interval` is "wilson" for a share of rows, else "bootstrap"; `unit` PERCENT, TARGET_UNIT or ""."""

    name: str
    label: str
    kinds: tuple[str, ...]  # of target: class, number, text
    higher_is_better: bool
    interval: str = "bootstrap"
    unit: str = ""
    statistic: Callable[[JudgedRows], Statistic | None] | None = None  # None: the mean of the column of this name
    tested: bool = False  # gets a p-value in a comparison; each additional test costs the others power

    @property
    def is_share(self) -> bool:
        """Whether each row scores 0 or 1."""
        return self.interval == "wilson"

    @property
    def in_percent(self) -> bool:
        """Whether tables show it in percent; metrics.json holds 0 to 1."""
        return self.unit == PERCENT


def _share(name: str, label: str, kinds: tuple[str, ...], higher: bool = True, tested: bool = False) -> Metric:
    return Metric(name, label, kinds, higher, "wilson", PERCENT, tested=tested)


CLASS, NUMBER, TEXT = ("class",), ("number",), ("text",)
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _share("accuracy", "accuracy", CLASS, tested=True),
        Metric("macro_f1", "macro F1", CLASS, True, unit=PERCENT, statistic=macro_f1),
        Metric("regret", "mean regret", CLASS, False, unit=PERCENT, tested=True),
        _share("within_5pct", "within 5 %", CLASS + NUMBER),
        _share("exact_match", "exact match", TEXT, tested=True),
        _share("normalised_match", "normalised match", TEXT),
        Metric("token_f1", "token F1", TEXT, True, unit=PERCENT, tested=True),
        Metric("chrf", "chrF", TEXT, True, unit=PERCENT),
        _share("invalid_share", "invalid", CLASS + NUMBER + TEXT, higher=False),
        Metric("log_loss", "log loss", CLASS, False),
        Metric("ece", "calibration error", CLASS, False, unit=PERCENT, statistic=calibration_error),
        Metric("mae", "MAE", NUMBER, False, unit=TARGET_UNIT, tested=True),
        Metric("rmse", "RMSE", NUMBER, False, unit=TARGET_UNIT, statistic=root_mean_squared_error),
        Metric("r2", "R²", NUMBER, True, statistic=r_squared),
        Metric("mape", "MAPE", NUMBER, False, unit=PERCENT),
        Metric("median_ae", "median AE", NUMBER, False, unit=TARGET_UNIT, statistic=median_absolute_error),
        _share("within_10pct", "within 10 %", NUMBER),
    )
}
PRIMARY = ("accuracy", "mae", "token_f1")  # runs are ranked by the first of these that they have


def find_metric(name: str) -> Metric:
    """Return the metric of a name, with or without its target: "price/mae", "mae", "top3_accuracy".

    Raises a UserError for a name that is not in the table.
    """
    short = name.rsplit("/", 1)[-1]
    if short in METRICS:
        return METRICS[short]
    if found := _TOP_K.fullmatch(short):
        return _share(short, f"top-{found[1]}", CLASS)
    raise UserError(f"unknown metric '{short}'; the metrics are {', '.join(METRICS)} and top<k>_accuracy")
