"""Numbers token by token: which are legal, and the distribution equals that of every number scored alone."""

import dataclasses
import functools
import math
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from linklab.inference import choice_scorer, number_distributions, row_answers
from linklab.inference.number_distributions import can_begin, is_legal, weighted_median
from linklab.models.chat import encode_prompt
from linklab.tables.schema import Column, Schema
from linklab.tasks.examples import read_examples
from linklab.tasks.task import make_task


def column(kind="int", **options):
    return Column("n", "target", kind, **options)


WHOLE = [(0, 12), (5, 1000), (7, 7), (10, 85), (95, 204), (0, 0), (-3, 3), (-120, -15), (-5, -5)]


@pytest.mark.parametrize("low, high", WHOLE)
def test_beginnings_of_whole_numbers_match_all_numbers_written_out(low, high):
    own = column(low=low, high=high)
    numbers = {str(n) for n in range(low, high + 1)}
    beginnings = {text[:n] for text in numbers for n in range(len(text) + 1)}
    tried = (
        {str(n) for n in range(-1100, 1101)} | beginnings | {"-", "00", "01", "-0", "+1", "1.", ".5", " 1", "1 ", "²"}
    )
    assert {text for text in tried if is_legal(text, own)} == numbers & tried
    assert {text for text in tried if can_begin(text, own)} == beginnings


def test_beginnings_of_decimals_match_all_numbers_written_out():
    own = column("float", low=-1.5, high=20.25, decimals=2)
    numbers = {f"{n / 100:.{d}f}" for n in range(-150, 2026) for d in (1, 2)} | {str(n) for n in range(-1, 21)}
    numbers = {text for text in numbers if -1.5 <= float(text) <= 20.25 and text not in ("-0.0", "-0.00")}
    beginnings = {text[:n] for text in numbers for n in range(len(text) + 1)}
    assert all(can_begin(text, own) for text in beginnings)
    assert all(is_legal(text, own) for text in numbers)
    for text in ("21", "20.3", "-1.6", "-2", "3", "1.234", "1..", "1e3", "--1"):
        assert can_begin(text, own) == (text in beginnings), text
        assert not is_legal(text, own) or text == "3"


def test_a_column_without_a_range_takes_any_number_of_at_most_twelve_characters():
    own = column("float")
    assert all(is_legal(text, own) for text in ("0", "-12.5", "-0.5", "123456789012", "0.001"))
    assert not any(is_legal(text, own) for text in ("1234567890123", "", "-", "5.", ".5", "1e5", "nan", "-0", "-0.0"))
    prices = column("float", longest=7)  # as in the table
    assert is_legal("42000.0", prices) and not can_begin("12345678", prices)


def test_the_weighted_median_equals_numpys_median_of_repeated_numbers():
    rng = np.random.default_rng(3)
    for _ in range(200):
        values = rng.choice(1000, size=rng.integers(1, 9), replace=False)
        weights = rng.integers(1, 9, size=len(values))
        copies = np.repeat(values, weights)
        expected = np.percentile(copies, 50, method="inverted_cdf")
        found = weighted_median({str(v): w / weights.sum() for v, w in zip(values, weights, strict=True)})
        assert float(found) == expected
    assert weighted_median({}) == ""


ALL = {"most": 10**6, "smallest": 0.0, "read_at_most": 10**6}


def by_hand(scorer, head, before, texts, stops):
    """The definition: at each token, the model's probabilities among tokens that lead to one of `texts` or end one."""

    @functools.cache
    def steps(beginning):
        """Return the log-probability of each next character, and under "" that of an end."""
        nexts = sorted({text[len(beginning)] for text in texts if text.startswith(beginning) and text != beginning})
        ways = [token for character in nexts for token in scorer.tokens(character)]
        assert len(ways) == len(nexts)  # one token per character
        with torch.inference_mode():
            tokens = head + scorer.tokens(before + beginning)
            logits = scorer.model(input_ids=torch.tensor([tokens])).logits[0, -1].double()
        scores = torch.log_softmax(logits[ways + (stops if beginning in texts else [])], dim=-1)
        found = dict(zip(nexts, scores.tolist(), strict=False))
        return found | {"": torch.logsumexp(scores[len(nexts) :], dim=-1).item()}

    return {
        text: math.exp(sum(steps(text[:n])[character] for n, character in enumerate([*text, ""]))) for text in texts
    }


@pytest.mark.parametrize("low, high", [(5, 112), (-12, 3)])
def test_the_distribution_is_that_of_asking_for_every_number_alone(scorer, low, high):
    """Three rows of different length and start in one batch; some numbers are prefixes of others; none is dropped."""
    heads = [encode_prompt(scorer.tokenizer, "ab " * n) for n in (1, 7, 3)]
    starts = [scorer.tokens(text) for text in ("a", "abc", "b")]
    follow = [[], scorer.tokens("x"), []]
    cache = choice_scorer.PromptCache(3)
    scorer.read(cache, heads)
    texts = [str(n) for n in range(low, high + 1)]
    first, again = (
        number_distributions.distributions(scorer, cache, starts, " ", follow, column(low=low, high=high), **ALL)
        for _ in range(2)
    )
    assert first == again  # scoring does not change the cache
    for head, start, own, row in zip(heads, starts, follow, first, strict=True):
        expected = by_hand(scorer, head + start, " ", texts, [scorer.end, scorer.tokenizer.eos_token_id, *own])
        assert sum(expected.values()) == pytest.approx(1)
        assert row == pytest.approx(expected, abs=1e-6)


def test_an_exact_answer_holds_the_median_of_what_may_follow_its_class(scorer, tmp_path):
    (tmp_path / "t.csv").write_text("x,kind,count\n" + "".join(f"w{i},{'ab'[i % 2]},{i}\n" for i in range(31)))
    task = make_task(tmp_path / "t.csv", ["kind", "count"])
    ranged = (dataclasses.replace(c, low=0, high=30) if c.name == "count" else c for c in task.schema.columns)
    task = dataclasses.replace(task, schema=Schema(tuple(ranged)))
    rows = read_examples(tmp_path / "t.csv", task)[:3]
    greedy = row_answers.answer_exactly(scorer, rows, task, numbers="greedy")
    medians = row_answers.answer_exactly(scorer, rows, task)
    for row, given, other in zip(rows, medians, greedy, strict=True):
        assert given["choices"] == other["choices"]
        kind = given["choices"]["kind"][0][0]
        head = encode_prompt(scorer.tokenizer, row.prompt) + scorer.tokens(kind)
        ends = [scorer.end, scorer.tokenizer.eos_token_id]
        expected = by_hand(scorer, head, " ", [str(n) for n in range(31)], ends)
        assert given["raw_text"] == f"{kind} {weighted_median(expected)}"
        assert given["answer"] == {"kind": kind, "count": weighted_median(expected)}
    assert all(row["answer"]["count"] in map(str, range(31)) for row in greedy)


@pytest.mark.parametrize("n_digits, decimals, kind", [
    (5, 1, "float"), (7, 0, "int"), (6, 0, "float"), (9, 2, "float"), (3, 0, "int"), (2, 4, "float"),
])  # fmt: skip
def test_long_numbers_keep_their_length_if_not_all_beginnings_can_be_read(
    monkeypatch, scorer, n_digits, decimals, kind
):
    """A model with equal probability for all numbers of `n_digits` digits, also in pandas' form 42000.0."""
    plan = [
        set("123456789"),
        *[set("0123456789")] * (n_digits - 1),
        *([{"."}, *[{"0"}] * decimals] if decimals else []),
    ]
    pieces = {token: scorer.tokenizer.decode([token]) for token in scorer.tokens_of_numbers("")}

    def head(texts, headed):
        wanted = [plan[len(text)] if len(text) < len(plan) else None for text in texts]
        scores = [
            [pieces.get(token) in own if own else token == scorer.end for token in headed.tolist()] for own in wanted
        ]
        return torch.tensor(scores).log()

    def read(scorer, cache, keys, live):
        keys[0].update((tokens, []) for tokens, _, _ in live[0])
        return [text for _, text, _ in live[0]]

    monkeypatch.setattr(number_distributions, "_read_beginnings", read)
    known = mock.Mock(wraps=scorer, tokenizer=scorer.tokenizer, end=scorer.end, device=scorer.device, head=head)
    known.rewind = lambda *where: None
    cache = SimpleNamespace(valid=torch.zeros(1, 0), lengths=[0], last=[""])
    (found,) = number_distributions.distributions(known, cache, [[]], "", [[]], column(kind))
    assert sum(found.values()) == pytest.approx(1)
    assert float(weighted_median(found)) == pytest.approx(5.5 * 10 ** (n_digits - 1), rel=0.04)  # 1/32 of all numbers


def test_unlikely_beginnings_move_the_median_little(scorer):
    heads = [encode_prompt(scorer.tokenizer, "ab " * n) for n in range(1, 9)]
    cache = choice_scorer.PromptCache(8)
    scorer.read(cache, heads)
    own = column(low=5, high=1000)
    whole, cut = (
        number_distributions.distributions(scorer, cache, [[]] * 8, "", [[]] * 8, own, **limits) for limits in (ALL, {})
    )
    for full, short in zip(whole, cut, strict=True):
        assert len(full) > len(short) and sum(short.values()) == pytest.approx(1)
        assert all(is_legal(text, own) for text in short)
        at, left_out = float(weighted_median(short)), 1 - sum(full[text] for text in short)
        assert 0 < left_out < 0.5
        assert sum(p for text, p in full.items() if float(text) <= at) >= 0.5 - left_out
        assert sum(p for text, p in full.items() if float(text) >= at) >= 0.5 - left_out


def test_finished_numbers_gain_nothing_from_dropped_beginnings(scorer):
    """Two of every ten beginnings are followed and represent the others."""
    cache = choice_scorer.PromptCache(1)
    scorer.read(cache, [encode_prompt(scorer.tokenizer, "ab ab")])
    own = column(low=0, high=9999)
    (full,) = number_distributions.distributions(scorer, cache, [[]], "", [[]], column(low=0, high=99), **ALL)
    (one,) = number_distributions.distributions(scorer, cache, [[]], "", [[]], own, most=10)
    (two,) = number_distributions.distributions(scorer, cache, [[]], "", [[]], own, most=2)
    assert len(two) < len(one) < len(full) * 10
    assert two["0"] == pytest.approx(full["0"], rel=1e-6) and one["0"] == pytest.approx(full["0"], rel=1e-6)


def test_a_number_that_reaches_the_longest_length_is_taken_as_it_is(scorer):
    """Without a range, an untrained model would write digits forever."""
    cache = choice_scorer.PromptCache(1)
    scorer.read(cache, [encode_prompt(scorer.tokenizer, "ab")])
    (found,) = number_distributions.distributions(scorer, cache, [[]], "", [[]], column("float"))
    assert sum(found.values()) == pytest.approx(1)
    assert all(is_legal(text, column("float")) for text in found)
