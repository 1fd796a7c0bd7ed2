"""New rows against training rows: which cells are errors, which are warnings, and which are neither."""

import json

import pytest
from linklab.cli import UserError
from linklab.links.links import LINK_SCHEMA, LINK_TEMPLATE
from linklab.tasks.examples import Example
from linklab.tasks.input_checks import INPUTS_FILE, check_row, describe_inputs, read_inputs
from linklab.tasks.task import Target, Task
from linklab.tasks.templates import Template

TASK = Task(
    LINK_SCHEMA,
    (Target("recommended_channel_mhz", "class", choices_from="available_channels_mhz"),),
    Template(LINK_TEMPLATE, LINK_SCHEMA),
)


def link(i=0, **cells):
    row = {
        "regulatory_domain": ("FCC", "ETSI")[i % 2], "radio_standard": "ax", "environment_type": "urban",
        "channel_bandwidth_mhz": ("20", "40", "80")[i % 3], "link_distance_m": str(500 + i), "tx_power_dbm": "25",
        "antenna_gain_dbi": str(20 + i % 5), "radar_events_per_day": "0.5" if i % 2 else "0.0",
        "available_channels_mhz": "[5180,5775]", "rssi_dbm": f"[-{50 + i % 20},-55]", "noise_dbm": "[-90,-91]",
        "busy_pct": "[0,12]",
    }  # fmt: skip
    return row | cells


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    rows = [Example(f"r{i}", f"r{i}", "train", "", "", {}, {}, {}, link(i)) for i in range(100)]
    (folder / INPUTS_FILE).write_text(json.dumps(describe_inputs(rows, TASK)))
    return read_inputs(folder)


@pytest.mark.parametrize(
    ("cells", "warning"),
    [
        ({}, ""),
        ({"link_distance_m": "550.0"}, ""),  # another spelling of a known number
        ({"regulatory_domain": "Germany"}, "regulatory_domain = Germany: training saw only ETSI, FCC"),
        ({"channel_bandwidth_mhz": "37"}, "channel_bandwidth_mhz = 37: training saw only 20, 40, 80"),
        ({"link_distance_m": "90000"}, "link_distance_m = 90000: training saw 500 to 599"),
        ({"available_channels_mhz": "[106,122]"}, "available_channels_mhz = 106, 122: training saw only 5180, 5775"),
        ({"rssi_dbm": "[-20,-55]"}, "rssi_dbm = -20: training saw -69 to -50"),
        ({"rssi_dbm": "[-65,-55]"}, ""),  # a measured value between others
        ({"radio_standard": " "}, "radio_standard is empty, which no training row was"),
        ({"environment_type": "space"}, ""),  # the prompt does not show it
        ({"regulatory_domain": "Germany", "link_distance_m": "1"},
         "regulatory_domain = Germany: training saw only ETSI, FCC; link_distance_m = 1: training saw 500 to 599"),
    ],
)  # fmt: skip
def test_a_value_that_training_did_not_see_is_a_warning(seen, cells, warning):
    found = check_row(link(3, **cells), seen)
    assert (found.error, found.warning) == ("", warning)


@pytest.mark.parametrize(
    ("cells", "error"),
    [
        ({"link_distance_m": "far"}, "link_distance_m = 'far' is not a number"),
        ({"link_distance_m": "1,200"}, "link_distance_m = '1,200' is not a number"),
        ({"rssi_dbm": '["weak",-55]'}, "rssi_dbm = 'weak' is not a number"),
        ({"noise_dbm": "-90"}, "column 'noise_dbm' = '-90': a JSON list"),
    ],
)
def test_a_cell_that_does_not_fit_its_column_is_an_error(seen, cells, error):
    assert check_row(link(3, **cells), seen).error.startswith(error)


def test_free_text_and_codes_may_be_new_and_cells_empty_if_training_had_empty_ones(tmp_path):
    rows = [
        link(i, regulatory_domain=f"a note of its own, {i}", radio_standard="" if i % 9 else "ax") for i in range(60)
    ]
    examples = [Example(f"r{i}", f"r{i}", "train", "", "", {}, {}, {}, row) for i, row in enumerate(rows)]
    (tmp_path / INPUTS_FILE).write_text(json.dumps(describe_inputs(examples, TASK)))
    seen = read_inputs(tmp_path)
    assert seen["regulatory_domain"].values is None
    assert check_row(link(3, regulatory_domain="another note", radio_standard=""), seen).warning == ""


def test_a_folder_without_inputs_json_is_not_checked_and_a_damaged_file_is_rejected(tmp_path):
    assert read_inputs(tmp_path) is None
    (tmp_path / INPUTS_FILE).write_text('{"columns": {"x": {"colour": 1}}}')
    with pytest.raises(UserError, match="not written by a training run"):
        read_inputs(tmp_path)
