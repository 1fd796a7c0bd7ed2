"""Splits: a side depends only on the group's text, fractions are as given, and subsets are nested."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import linklab
import pytest
from linklab.tasks.splits import FRACTIONS, SPLITS, SplitRule, choose_rule, rank_key, split_of, unit_hash
from scipy import stats

SCRIPTS = str(Path(linklab.__file__).parents[1])
GROUPS = [f"S{i:09d}" for i in range(20_000)]


@pytest.mark.parametrize("text", ["", "S000000001", "größe 🙂", "a\u2028b", "x" * 5000])
def test_the_hash_is_the_leading_bits_of_sha256_as_a_fraction(text):
    whole = int(hashlib.sha256(text.encode()).hexdigest(), 16) / 2**256
    assert unit_hash(text) == pytest.approx(whole, abs=2**-52)
    assert 0 <= unit_hash(text) < 1


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.25, 0.25)])
def test_groups_are_split_in_the_given_fractions(fractions):
    sides = [split_of(group, fractions=fractions) for group in GROUPS]
    counts = [sides.count(split) for split in SPLITS]
    assert sum(counts) == len(GROUPS)
    assert stats.chisquare(counts, [f * len(GROUPS) for f in fractions]).pvalue > 1e-3


def test_another_seed_gives_an_independent_split():
    first, second = ([split_of(group, seed) for group in GROUPS] for seed in (0, 1))
    table = [[sum(a == s and b == t for a, b in zip(first, second, strict=True)) for t in SPLITS] for s in SPLITS]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert first != second


def test_a_side_is_the_same_in_every_process_and_order():
    forward = [split_of(group) for group in GROUPS[:500]]
    code = "from linklab.tasks.splits import split_of\nfor i in range(499, -1, -1): print(split_of(f'S{i:09d}'))"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": SCRIPTS}
        found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        assert found.split() == forward[::-1]


def test_the_ranking_does_not_follow_the_split_or_the_order_of_the_file():
    # A subset of lowest rank must be a fair sample of every split and of the file from top to bottom.
    lowest = sorted(range(len(GROUPS)), key=lambda i: rank_key(GROUPS[i]))[:4000]
    train = sum(split_of(GROUPS[i]) == "train" for i in lowest)
    assert stats.binomtest(train, 4000, 0.8).pvalue > 1e-3
    assert stats.kstest([i / len(GROUPS) for i in lowest], "uniform").pvalue > 1e-3


def test_rows_with_equal_hashes_still_have_different_ranks():
    assert len({rank_key(group) for group in GROUPS}) == len(GROUPS)
    assert rank_key("a")[1] == "a"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [3, 4, 5, 9, 12, 20, 33])
@pytest.mark.parametrize("wanted", [SPLITS, ("train", "validation"), ("train", "test")])
def test_few_groups_fill_every_wanted_side(n, seed, wanted):
    groups = GROUPS[:n]
    rule = choose_rule(seed, groups, wanted)
    assert rule == choose_rule(seed, groups[::-1] * 2, wanted) == SplitRule.from_dict(rule.to_dict())
    sides = [split_of(group, seed, rule.fractions) for group in groups]
    usual = [split_of(group, seed) for group in groups]
    if set(wanted) <= {side if side in wanted else "train" for side in usual}:
        assert rule == SplitRule(seed) and sides == usual
    else:
        assert set(sides) == set(wanted)
        assert [sides.count(side) for side in wanted[1:]] == [max(1, round(n * 0.1))] * (len(wanted) - 1)


def test_two_groups_and_many_groups_get_the_default_fractions():
    assert choose_rule(3, GROUPS[:2]) == choose_rule(3, []) == SplitRule(3)
    read = []
    assert choose_rule(0, (read.append(g) or g for g in GROUPS)).fractions == FRACTIONS
    assert 3 <= len(read) < 200  # reading stops when each side was seen once
