"""linklab/studies/search_space.py: settings read with clear errors and drawn without repeats."""

import argparse
import itertools

import finetune_gemma_from_csv
import numpy as np
import pytest
from linklab.studies import search_space
from linklab.training import options


@pytest.mark.parametrize(("text", "expected"), [
    ("lora_rank=8,16", {"choices": (8, 16)}),
    ("learning_rate=1e-4,5e-4", {"choices": (1e-4, 5e-4)}),
    ("lr_schedule=cosine,linear", {"choices": ("cosine", "linear")}),
    ("learning_rate=log:1e-4:1e-3", {"low": 1e-4, "high": 1e-3, "log": True, "whole": False}),
    ("lora_rank=log:4:64", {"low": 4, "high": 64, "log": True, "whole": True}),
    ("weight_decay=0:0.1", {"low": 0.0, "high": 0.1, "log": False}),
])  # fmt: skip
def test_settings_are_read(text, expected):
    axis = search_space.parse_axis(text)
    assert {name: getattr(axis, name) for name in expected} == expected and axis.name == text.split("=")[0]


@pytest.mark.parametrize(("text", "said"), [
    ("lora_rank", "write NAME=A,B,C for a list"),
    ("lora_rank=", "write NAME=A,B,C for a list"),
    ("rank=8", "'rank' is not a setting that can be swept; these can: lora_rank"),
    ("lora_rank=8,8", "duplicate value"),
    ("lora_rank=8,,16", "'' is not a whole number"),
    ("lora_rank=8.5", "'8.5' is not a whole number"),
    ("lora_rank=0,8", "lora_rank: 0 is out of range"),
    ("learning_rate=nan", "learning_rate: nan is out of range"),
    ("learning_rate=inf", "learning_rate: inf is out of range"),
    ("lora_dropout=0,1.5", "1.5 is out of range; expected a number from 0 to below 1"),
    ("learning_rate=1e-3:1e-4", "0.001 is not below 0.0001"),
    ("learning_rate=log:1e-4", "write NAME=A,B,C for a list"),
    ("weight_decay=log:0:1", "a logarithmic range needs a lower end above 0"),
    ("lr_schedule=cosine,steps", "'steps' is not one of cosine, linear"),
    ("lr_schedule=a:b", "expected a list of values from cosine"),
])  # fmt: skip
def test_an_invalid_setting_is_refused_with_the_right_form(text, said):
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        search_space.parse_axis(text)
    assert said in str(raised.value)


@pytest.mark.parametrize("name", search_space.TUNABLE)
def test_every_setting_is_an_option_of_finetune_that_takes_its_values(name):
    limits = options.limits_of(name)
    values = [limits.kind(2 if limits.high > 2 else 0.5)] if limits else options.choices_of(name)
    for value in values:
        words = ["--csv", "a", "--out-dir", "b", *search_space.write_words({name: value})]
        settings = options.read_settings(finetune_gemma_from_csv.build_parser().parse_args(words))
        assert getattr(settings, name) == value


def test_random_settings_never_repeat_stay_in_range_and_start_the_same_for_any_count():
    axes = [search_space.parse_axis(text) for text in ("learning_rate=log:1e-4:1e-2", "lora_rank=4:8", "epochs=1,2")]
    twenty = list(itertools.islice(search_space.draw_distinct(axes, 5), 20))
    assert list(itertools.islice(search_space.draw_distinct(axes, 5), 7)) == twenty[:7]
    assert len({tuple(settings.values()) for settings in twenty}) == 20
    assert all(1e-4 <= s["learning_rate"] <= 1e-2 and 4 <= s["lora_rank"] <= 8 for s in twenty)
    many = list(itertools.islice(search_space.draw_distinct(axes, 5), 2000))
    logs = np.log10([settings["learning_rate"] for settings in many])
    assert np.quantile(logs, [0.25, 0.5, 0.75]) == pytest.approx([-3.5, -3, -2.5], abs=0.1)  # even by logarithm
    few = [search_space.parse_axis("lora_rank=4:6"), search_space.parse_axis("epochs=1,2")]
    everything = list(search_space.draw_distinct(few, 1))
    assert len(everything) == 6 == search_space.count_settings(few)
    left = list(search_space.draw_distinct(few, 1, everything[:4]))
    assert sorted(map(str, left)) == sorted(map(str, everything[4:]))


def test_a_grid_is_every_combination():
    axes = [search_space.parse_axis("lora_rank=4,8"), search_space.parse_axis("epochs=1,2,3")]
    assert search_space.grid(axes) == [{"lora_rank": r, "epochs": e} for r in (4, 8) for e in (1.0, 2.0, 3.0)]


def test_a_plotted_axis_places_values_correctly():
    log = search_space.parse_axis("learning_rate=log:1e-4:1e-2")
    assert [log.position(value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [text for _, text in log.ticks()] == ["0.0001", "0.001", "0.01"]
    assert search_space.parse_axis("lora_rank=4,8,64").position(8) == 0.5
