"""Numbers as a model writes them, token by token: which texts are legal, how probable each is, and their median.

The answer with the least expected absolute error is the median of what a model holds possible. Greedy writing gives
something near the likeliest text instead: it settles the first digit before it has weighed the others.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from linklab.tables.schema import Column

if TYPE_CHECKING:
    from linklab.inference.choice_scorer import ChoiceScorer, PromptCache

MAX_CHARACTERS = 12  # of a number whose column has no range; its table may have shorter ones alone
# How far a distribution is followed. Of the beginnings of one length those much less likely than the best are not read
# on, and of more than MOST each stands for its neighbours: the median moves by no more than those hold together. Where
# READ_AT_MOST of a row's have been read, each goes on with its likeliest token alone to the end of its whole part:
# 12000 for all of 12…, and 12.3 for all of 12.3….
MOST, SMALLEST, READ_AT_MOST = 32, 1 / 256, 128
_BEGINNING = re.compile(r"(-?)(0|[1-9][0-9]*|)(?:(\.)([0-9]*))?")


@functools.cache
def longest_number(column: Column) -> int:
    """Return the characters of the longest number of a column's range, 5..1000 -> 4, or of its table."""
    ends = [end for end in (column.low, column.high) if end is not None]
    known = min(column.longest or MAX_CHARACTERS, MAX_CHARACTERS)
    return max((len(f"{end:.{column.decimals or 0}f}") for end in ends), default=known)


@functools.lru_cache(maxsize=1 << 16)  # of texts that rows ask about again and again
def can_begin(text: str, column: Column) -> bool:
    """Say whether a legal number of the column begins with `text`: `9` begins none of 10..85, `1.` no whole number."""
    found = _BEGINNING.fullmatch(text)
    if not found or len(text) > longest_number(column):
        return False
    sign, whole, point, decimals = found.groups()
    low, high = _range(column)
    if sign and (low >= 0 or _is_whole(column) and whole == "0"):
        return False
    if point and (_is_whole(column) or not whole or len(decimals) > (column.decimals or MAX_CHARACTERS)):
        return False
    return not whole or _reaches(found, column)


def _reaches(found: re.Match[str], column: Column) -> bool:
    """Say whether more digits behind the beginning of a number can lead into the column's range."""
    sign, whole, point, decimals = found.groups()
    low, high = _range(column)
    # What follows adds digits: 12 begins 12 to 12.99…, 120 to 129.99…, 1200 to 1299.99….
    least, unit = float(whole + (point or "") + (decimals or "")), 10.0 ** -len(decimals or "")
    scales = range(1 if point or whole == "0" else longest_number(column) - len(found[0]) + 1)
    if sign:
        low, high = -high, -low
    return any(least * 10**k <= high and (least + unit) * 10**k > low for k in scales)


@functools.lru_cache(maxsize=1 << 16)
def is_legal(text: str, column: Column) -> bool:
    """Say whether `text` is a number of the column, in its range, as a CSV writes it."""
    if not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text) or not can_begin(text, column):
        return False
    low, high = _range(column)
    return low <= float(text) <= high and not (text.startswith("-") and float(text) == 0)


def _range(column: Column) -> tuple[float, float]:
    return -math.inf if column.low is None else column.low, math.inf if column.high is None else column.high


def _is_whole(column: Column) -> bool:
    return column.kind == "int" or column.decimals == 0


def weighted_median(probabilities: Mapping[str, float]) -> str:
    """Return the text of the least number that half of the probability is at or below; "" of no texts."""
    half, below = sum(probabilities.values()) / 2, 0.0
    for text, probability in sorted(probabilities.items(), key=lambda item: float(item[0])):
        below += probability
        if below >= half:
            return text
    return ""


def distributions(
    scorer: ChoiceScorer, cache: PromptCache, starts: Sequence[Sequence[int]], before: str,
    next_tokens: Sequence[Sequence[int]], column: Column, *,
    most: int = MOST, smallest: float = SMALLEST, read_at_most: int = READ_AT_MOST, greedy: bool = False,
) -> list[dict[str, float]]:  # fmt: skip
    """Return, for every row, the probability of each number text its answer may go on with; they sum to 1.

    At every token the model is held to the column's legal numbers; a number ends with the turn's end or one of the
    row's `next_tokens`. `before` stands between what is written so far (`starts`) and the number. About `most`
    beginnings of one length are followed, each at least `smallest` times as probable as the best. With `greedy` only
    the likeliest next token is, until the end is likelier: one number. Empty where the model could write no legal one.
    """
    import torch

    writer = _Writer(scorer, before, column)
    back_to = cache.valid.shape[1], list(cache.lengths), cache.last
    if any(starts) or writer.lead:
        scorer.read(cache, [[*tokens, *writer.lead] for tokens in starts])
    ends = {scorer.end, scorer.tokenizer.eos_token_id}
    columns = {token: at for at, token in enumerate(sorted(ends.union(writer.pieces, *next_tokens)))}
    headed = torch.tensor(list(columns), device=scorer.device)
    stops = [[columns[token] for token in sorted(ends.union(own))] for own in next_tokens]
    found: list[dict[str, float]] = [{} for _ in starts]
    keys: list[dict[tuple[int, ...], list[int]]] = [{(): []} for _ in starts]  # where a beginning's keys are cached
    live: list[list[tuple]] = [[((), writer.start, 1.0)] for _ in starts]  # (tokens, text, probability) to be followed
    states = cache.last
    while True:
        scores = torch.log_softmax(scorer.head(states, headed).double(), dim=-1).exp().tolist()
        scored = iter(scores)
        for r, beginnings in enumerate(live):
            if greedy:
                live[r] = [more for one in beginnings
                           for more in _go_on(writer, one, next(scored), columns, stops[r], found[r])]  # fmt: skip
                continue
            longer, may_branch = [], len(keys[r]) <= read_at_most
            for beginning in beginnings:
                nexts = _lengthen(writer, beginning, next(scored), columns, stops[r], found[r])
                longer += nexts if may_branch else _likeliest_alone(nexts)
            live[r] = _choose(writer, _to_follow(writer, longer, found[r], may_branch), most, smallest)
        if not any(live):
            break
        states = _read_beginnings(scorer, cache, keys, live)
    scorer.rewind(cache, *back_to)
    return list(map(_shares, found))


def _shares(row: dict[str, float]) -> dict[str, float]:
    whole = sum(row.values())
    return {text: p / whole for text, p in row.items()} if whole else {}


def _lengthen(
    writer: _Writer, beginning: tuple, scores: Sequence[float], columns: Mapping[int, int], stops: Sequence[int],
    found: dict[str, float],
) -> list[tuple]:  # fmt: skip
    """Return a beginning with each token that may follow it; the number it is, where it may end, goes to `found`."""
    tokens, text, probability = beginning
    nexts = writer.nexts(text)
    end = sum(scores[at] for at in stops) if writer.may_end(text) else 0.0
    total = end + sum(scores[columns[token]] for token, _ in nexts)
    if total == 0.0:
        return []
    _add(found, writer.number(text), probability * end / total)
    return [((*tokens, token), more, probability * scores[columns[token]] / total) for token, more in nexts]


def _go_on(
    writer: _Writer, beginning: tuple, scores: Sequence[float], columns: Mapping[int, int], stops: Sequence[int],
    found: dict[str, float],
) -> list[tuple]:  # fmt: skip
    """Return a beginning with its likeliest next token, [] where it ends; `found` holds the last number it was."""
    ended: dict[str, float] = {}
    nexts = _lengthen(writer, beginning, scores, columns, stops, ended)
    nexts = [one for one in nexts if writer.may_end(one[1]) or writer.nexts(one[1])]  # none after `12.`
    best = max(nexts, key=lambda one: one[2], default=None)
    if ended:
        found.clear()
        found |= dict.fromkeys(ended, 1.0)
    return [] if best is None or max(ended.values(), default=0.0) >= best[2] else [best]


def _likeliest_alone(beginnings: list[tuple]) -> list[tuple]:
    """Return the likeliest of beginnings with what all hold together; [] of none."""
    if not beginnings:
        return []
    tokens, text, _ = max(beginnings, key=lambda beginning: beginning[2])
    return [(tokens, text, sum(beginning[2] for beginning in beginnings))]


def _to_follow(writer: _Writer, beginnings: list[tuple], found: dict[str, float], may_branch: bool) -> list[tuple]:
    """Return the beginnings to read on, likeliest first, and add the numbers among the others to `found`."""
    open_ones = []
    for beginning in beginnings:
        _, text, share = beginning
        is_near = writer.may_end(text) and "." in writer.number(text)  # what follows are further decimals
        if writer.nexts(text) and (may_branch or not is_near):
            open_ones.append(beginning)
        elif writer.may_end(text):
            _add(found, writer.number(text), share)
    return sorted(open_ones, key=lambda beginning: -beginning[2])


def _choose(writer: _Writer, beginnings: list[tuple], most: int, smallest: float) -> list[tuple]:
    """Return those of beginnings sorted by probability that are read on; they take over what the others hold.

    Dropped and scaled away, it would go to the shorter numbers too, which are complete by now.
    """
    kept = [one for one in beginnings if one[2] > beginnings[0][2] * smallest]
    scale = sum(one[2] for one in beginnings) / sum(one[2] for one in kept) if kept else 1.0
    kept = kept if len(kept) <= most else _thin_out(writer, kept, most)
    return [(tokens, text, probability * scale) for tokens, text, probability in kept]


def _thin_out(writer: _Writer, beginnings: list[tuple], most: int) -> list[tuple]:
    """Return the middle one of each of `most` equal parts of the probability, in order of size, for its whole part.

    The likeliest ones alone would not do: where 10 to 99 are equally likely they are any 32 of them.
    """
    shapes: dict[tuple, list[tuple]] = {}  # equally long, with sign and point in the same places: order is size
    for one in sorted(beginnings, key=lambda beginning: beginning[1]):
        number = writer.number(one[1])
        shapes.setdefault((len(number), number.startswith("-"), number.find(".")), []).append(one)
    share, thinned = sum(one[2] for one in beginnings) / most, []
    for ordered in shapes.values():
        parts: dict[int, list[tuple[float, tuple]]] = {}
        below = 0.0
        for one in ordered:
            parts.setdefault(int((below + one[2] / 2) / share), []).append((below + one[2] / 2, one))
            below += one[2]
        for part in parts.values():
            held = sum(one[2] for _, one in part)
            centre = sum(middle * one[2] for middle, one in part) / held
            _, (tokens, text, _) = min(part, key=lambda entry: abs(entry[0] - centre))
            thinned.append((tokens, text, held))
    return thinned


def _add(found: dict[str, float], text: str, probability: float) -> None:
    if probability > 0:
        found[text] = found.get(text, 0.0) + probability


def _read_beginnings(
    scorer: ChoiceScorer, cache: PromptCache, keys: list[dict[tuple[int, ...], list[int]]], live: list[list[tuple]]
) -> Any:
    """Return the states (all live beginnings, hidden) after the last token of each row's live beginnings.

    All but that token was read before. `keys` holds the columns of each read beginning's tokens in `cache`.
    """
    own = [[tokens for tokens, _, _ in beginnings] for beginnings in live]
    ancestors = [[read[tokens[:-1]] for tokens in row] for read, row in zip(keys, own, strict=True)]
    states, columns = scorer.read_side_by_side(cache, [[tokens[-1] for tokens in row] for row in own], ancestors)
    for read, row, before, new in zip(keys, own, ancestors, columns, strict=True):
        read.update((tokens, [*old, column]) for tokens, old, column in zip(row, before, new, strict=True))
    return states


class _Writer:
    """Which tokens may follow which text, for numbers of one column behind `before`.

    Texts here hold `before` too, for a tokenizer may write it and the first digit in one token.
    """

    def __init__(self, scorer: ChoiceScorer, before: str, column: Column) -> None:
        self.before, self.column = before, column
        tokens = scorer.tokens_of_numbers(before)
        self.pieces = {token: scorer.tokenizer.decode([token]) for token in sorted(tokens)}
        self.nexts = functools.cache(self._nexts)
        self.lead: list[int] = []  # tokens that every number begins with
        self.start = ""
        while len(self.start) < len(before) and len(only := self.nexts(self.start)) == 1:
            token, self.start = only[0]
            self.lead.append(token)

    def _nexts(self, text: str) -> list[tuple[int, str]]:
        """Return (token, longer text) of every token that a legal number's beginning may go on with."""
        return [(token, text + piece) for token, piece in self.pieces.items() if piece and self._begins(text + piece)]

    def _begins(self, text: str) -> bool:
        if len(text) <= len(self.before):
            return self.before.startswith(text)
        return text.startswith(self.before) and can_begin(self.number(text), self.column)

    def may_end(self, text: str) -> bool:
        """Say whether a legal number stands behind `before`."""
        return text.startswith(self.before) and is_legal(self.number(text), self.column)

    def number(self, text: str) -> str:
        """Return what stands behind `before`."""
        return text[len(self.before) :]
