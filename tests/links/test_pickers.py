"""Pickers have their published accuracies, and none is above the ceiling."""

import numpy as np
import pytest
from linklab.links import pickers
from linklab.links.links import LINK_SCHEMA
from linklab.radio import labels


def table(seed, n_rows, preset="standard"):
    """Columns of the first rows of a seed, as they would be read from the CSV."""
    columns, block = {c.name: [] for c in LINK_SCHEMA.columns if c.role in ("input", "target")}, 0
    columns["channel_throughput_mbps"] = []
    while len(columns["rssi_dbm"]) < n_rows:
        drawn = labels.make_block(seed, block, preset)
        stops = np.cumsum(drawn["count"])[:-1]
        for name, cells in columns.items():
            values = drawn[name]
            if len(values) != len(drawn["count"]):
                cells += np.split(values, stops)
            elif name != "channel_throughput_mbps" and LINK_SCHEMA[name].choices:
                cells += [LINK_SCHEMA[name].choices[v] for v in values]
            else:
                cells += values.tolist()
        block += 1
    return {name: cells[:n_rows] for name, cells in columns.items()}


@pytest.fixture(scope="module")
def rows():
    return table(1, 20_000)


@pytest.fixture(scope="module")
def figures(rows):
    with pytest.MonkeyPatch.context() as patch:  # the ceiling of 20,000 rows takes seconds; it has its own test
        patch.setattr(pickers, "bayes_ceiling", lambda *args, **kwargs: {})
        return pickers.hardness(rows, "standard")


@pytest.mark.parametrize(
    "picker, accuracy",
    [("random", 0.19), ("most_frequent", 0.42), ("least_noise", 0.23), ("most_snr", 0.54),
     ("snr_and_busy", 0.86), ("formula", 0.88)],
)  # fmt: skip
def test_accuracy_on_20_000_standard_rows_is_the_published_one(figures, picker, accuracy):
    assert figures["pickers"][picker]["accuracy"] == pytest.approx(accuracy, abs=0.03)


def test_the_set_looks_as_published(figures):
    assert figures["candidates_mean"] == pytest.approx(7, abs=0.5)
    assert 40 <= figures["classes"] <= 43
    assert figures["top_class_share"] == pytest.approx(0.2, abs=0.05)
    assert figures["throughput_mae_mbps"]["mean"] == pytest.approx(210, abs=10)
    assert figures["throughput_mae_mbps"]["formula"] == pytest.approx(23, abs=3)
    assert figures["pickers"]["formula"]["regret"] == pytest.approx(0.008, abs=0.003)


@pytest.mark.parametrize("preset, ceiling", [("easy", 0.94), ("standard", 0.88), ("hard", 0.79)])
def test_bayes_ceiling_is_the_published_one_and_is_achieved(preset, ceiling):
    found = pickers.bayes_ceiling(table(2, 3_000, preset), preset)
    assert found["achieved"] == pytest.approx(ceiling, abs=0.03)
    assert found["ceiling"] == pytest.approx(found["achieved"], abs=0.02)  # the posterior is calibrated


def test_scores_align_with_the_candidates(rows):
    some = {name: cells[:50] for name, cells in rows.items()}
    for name in pickers.PICKERS:
        scores = pickers.pick(name, some)
        assert [len(s) for s in scores] == [len(c) for c in some["available_channels_mhz"]]


def test_pickers_read_visible_columns_only(rows):
    visible = {c.name: rows[c.name][:50] for c in LINK_SCHEMA.by_role("input")}
    for name in pickers.PICKERS:
        assert len(pickers.pick(name, visible)) == 50
    capped = pickers.formula_throughput(visible)
    assert max(row.max() for row in capped) <= 1000
    assert np.isnan(pickers.bayes_ceiling(visible, "standard", draws=2)["achieved"])


def test_true_states_that_the_gap_filter_would_drop_do_not_count():
    some = table(2, 500)
    with_filter, without = (pickers.bayes_ceiling(some, "standard", min_gap=gap)["ceiling"] for gap in (0.02, 0.0))
    assert with_filter > without + 0.015
