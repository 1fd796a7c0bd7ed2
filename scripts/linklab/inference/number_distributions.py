"""The distribution of a number that a model writes token by token: legal texts, their probabilities, their median.

The answer with the least expected absolute error is the median of the distribution. Greedy writing gives a text near
the most probable one instead: it fixes the first digit before it has considered the others.
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

MAX_CHARACTERS = 12  # longest number of a column without a range, unless its table has only shorter ones
# The search extends "beginnings" of numbers (1, 12, 12.) by a token at a time. It drops those below SMALLEST times the
# best one's probability. If more than MOST remain, each kept one represents its neighbours; this moves the median by
# at most their probability. After READ_AT_MOST beginnings of a row, each is extended only by its most probable token,
# to the end of its integer part: 12000 for all of 12…, and 12.3 for all of 12.3….
MOST, SMALLEST, READ_AT_MOST = 32, 1 / 256, 128
_BEGINNING = re.compile(r"(-?)(0|[1-9][0-9]*|)(?:(\.)([0-9]*))?")


@functools.cache
def longest_number(column: Column) -> int:
    """Return the length in characters of the longest number in a column's range, 5..1000 -> 4, or else in its table."""
    ends = [end for end in (column.low, column.high) if end is not None]
    known = min(column.longest or MAX_CHARACTERS, MAX_CHARACTERS)
    return max((len(f"{end:.{column.decimals or 0}f}") for end in ends), default=known)


@functools.lru_cache(maxsize=1 << 16)  # many rows check the same texts
def can_begin(text: str, column: Column) -> bool:
    """Say whether a legal number of the column begins with `text`: no number of 10..85 begins with `9`."""
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
    """Say whether more digits after the beginning of a number can lead into the column's range."""
    sign, whole, point, decimals = found.groups()
    low, high = _range(column)
    # More digits may follow: 12 begins 12 to 12.99…, 120 to 129.99…, 1200 to 1299.99….
    least, unit = float(whole + (point or "") + (decimals or "")), 10.0 ** -len(decimals or "")
    scales = range(1 if point or whole == "0" else longest_number(column) - len(found[0]) + 1)
    if sign:
        low, high = -high, -low
    return any(least * 10**k <= high and (least + unit) * 10**k > low for k in scales)


@functools.lru_cache(maxsize=1 << 16)
def is_legal(text: str, column: Column) -> bool:
    """Say whether `text` is a number in the column's range and in the usual CSV form."""
    if not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text) or not can_begin(text, column):
        return False
    low, high = _range(column)
    return low <= float(text) <= high and not (text.startswith("-") and float(text) == 0)


def _range(column: Column) -> tuple[float, float]:
    return -math.inf if column.low is None else column.low, math.inf if column.high is None else column.high


def _is_whole(column: Column) -> bool:
    return column.kind == "int" or column.decimals == 0


def weighted_median(probabilities: Mapping[str, float]) -> str:
    """Return the text of the least number with at least half of the probability at or below it; "" for no texts."""
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
    """Return {number text: probability} for every row, the next number in its answer; probabilities sum to 1.

    At every token the model is restricted to the column's legal numbers; a number ends with the end of the turn or one
    of the row's `next_tokens`. `before` is the text between the answer so far (`starts`) and the number. About `most`
    beginnings of one length are kept, each at least `smallest` times as probable as the best. With `greedy` only the
    most probable token is followed, until the end is more probable: one number. {} if no legal number is possible.
    """
    import torch

    legal = _NumberTokens(scorer, before, column)
    back_to = cache.valid.shape[1], list(cache.lengths), cache.last
    if any(starts) or legal.lead:
        scorer.read(cache, [[*tokens, *legal.lead] for tokens in starts])
    ends = {scorer.end, scorer.tokenizer.eos_token_id}
    columns = {token: at for at, token in enumerate(sorted(ends.union(legal.pieces, *next_tokens)))}
    vocabulary = torch.tensor(list(columns), device=scorer.device)  # the only tokens the head computes
    stops = [[columns[token] for token in sorted(ends.union(own))] for own in next_tokens]
    found: list[dict[str, float]] = [{} for _ in starts]
    keys: list[dict[tuple[int, ...], list[int]]] = [{(): []} for _ in starts]  # where a beginning's keys are cached
    live: list[list[tuple]] = [[((), legal.start, 1.0)] for _ in starts]  # beginnings: (tokens, text, probability)
    states = cache.last
    while True:
        scores = torch.log_softmax(scorer.head(states, vocabulary).double(), dim=-1).exp().tolist()
        scored = iter(scores)
        for r, beginnings in enumerate(live):
            if greedy:
                live[r] = [more for one in beginnings
                           for more in _extend_best(legal, one, next(scored), columns, stops[r], found[r])]  # fmt: skip
                continue
            longer, may_branch = [], len(keys[r]) <= read_at_most
            for beginning in beginnings:
                nexts = _extend(legal, beginning, next(scored), columns, stops[r], found[r])
                longer += nexts if may_branch else _merge_into_best(nexts)
            live[r] = _keep_probable(legal, _split_finished(legal, longer, found[r], may_branch), most, smallest)
        if not any(live):
            break
        states = _read_beginnings(scorer, cache, keys, live)
    scorer.rewind(cache, *back_to)
    return list(map(_normalize, found))


def _normalize(row: dict[str, float]) -> dict[str, float]:
    whole = sum(row.values())
    return {text: p / whole for text, p in row.items()} if whole else {}


def _extend(
    legal: _NumberTokens, beginning: tuple, scores: Sequence[float], columns: Mapping[int, int], stops: Sequence[int],
    found: dict[str, float],
) -> list[tuple]:  # fmt: skip
    """Return a beginning extended by each token that may follow; if it is a legal number, add it to `found`."""
    tokens, text, probability = beginning
    nexts = legal.nexts(text)
    end = sum(scores[at] for at in stops) if legal.may_end(text) else 0.0
    total = end + sum(scores[columns[token]] for token, _ in nexts)
    if total == 0.0:
        return []
    _add(found, legal.number(text), probability * end / total)
    return [((*tokens, token), more, probability * scores[columns[token]] / total) for token, more in nexts]


def _extend_best(
    legal: _NumberTokens, beginning: tuple, scores: Sequence[float], columns: Mapping[int, int], stops: Sequence[int],
    found: dict[str, float],
) -> list[tuple]:  # fmt: skip
    """Return [the beginning extended by its most probable token], [] if it ends; `found` gets the last legal number."""
    ended: dict[str, float] = {}
    nexts = _extend(legal, beginning, scores, columns, stops, ended)
    nexts = [one for one in nexts if legal.may_end(one[1]) or legal.nexts(one[1])]  # none after `12.`
    best = max(nexts, key=lambda one: one[2], default=None)
    if ended:
        found.clear()
        found |= dict.fromkeys(ended, 1.0)
    return [] if best is None or max(ended.values(), default=0.0) >= best[2] else [best]


def _merge_into_best(beginnings: list[tuple]) -> list[tuple]:
    """Return [the most probable beginning, with the probability of all together]; [] for none."""
    if not beginnings:
        return []
    tokens, text, _ = max(beginnings, key=lambda beginning: beginning[2])
    return [(tokens, text, sum(beginning[2] for beginning in beginnings))]


def _split_finished(
    legal: _NumberTokens, beginnings: list[tuple], found: dict[str, float], may_branch: bool
) -> list[tuple]:
    """Return the beginnings to extend further, most probable first; add the numbers among the others to `found`."""
    open_ones = []
    for beginning in beginnings:
        _, text, share = beginning
        is_near = legal.may_end(text) and "." in legal.number(text)  # only more decimals can follow
        if legal.nexts(text) and (may_branch or not is_near):
            open_ones.append(beginning)
        elif legal.may_end(text):
            _add(found, legal.number(text), share)
    return sorted(open_ones, key=lambda beginning: -beginning[2])


def _keep_probable(legal: _NumberTokens, beginnings: list[tuple], most: int, smallest: float) -> list[tuple]:
    """Return the most probable of sorted beginnings; they get the probability of the dropped ones.

    Scaling all numbers at the end instead would give a part of it to shorter numbers, which are complete by now.
    """
    kept = [one for one in beginnings if one[2] > beginnings[0][2] * smallest]
    scale = sum(one[2] for one in beginnings) / sum(one[2] for one in kept) if kept else 1.0
    kept = kept if len(kept) <= most else _thin_out(legal, kept, most)
    return [(tokens, text, probability * scale) for tokens, text, probability in kept]


def _thin_out(legal: _NumberTokens, beginnings: list[tuple], most: int) -> list[tuple]:
    """Split beginnings by size into `most` parts of equal probability; return each part's middle one for its part.

    The most probable ones would not represent the rest: if 10 to 99 are equally probable, they are any 32 of these.
    """
    shapes: dict[tuple, list[tuple]] = {}  # (length, sign, place of the point) -> beginnings, sorted by size
    for one in sorted(beginnings, key=lambda beginning: beginning[1]):
        number = legal.number(one[1])
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

    All earlier tokens are in `cache` already; `keys` maps each beginning read so far to its tokens' columns there.
    """
    own = [[tokens for tokens, _, _ in beginnings] for beginnings in live]
    ancestors = [[read[tokens[:-1]] for tokens in row] for read, row in zip(keys, own, strict=True)]
    states, columns = scorer.read_side_by_side(cache, [[tokens[-1] for tokens in row] for row in own], ancestors)
    for read, row, before, new in zip(keys, own, ancestors, columns, strict=True):
        read.update((tokens, [*old, column]) for tokens, old, column in zip(row, before, new, strict=True))
    return states


class _NumberTokens:
    """The tokens that may follow a text, for numbers of one column after the text `before`.

    All texts here include `before`, because a token may hold its end and the first digit.
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
        """Return (token, longer text) for every token after which `text` still begins a legal number."""
        return [(token, text + piece) for token, piece in self.pieces.items() if piece and self._begins(text + piece)]

    def _begins(self, text: str) -> bool:
        if len(text) <= len(self.before):
            return self.before.startswith(text)
        return text.startswith(self.before) and can_begin(self.number(text), self.column)

    def may_end(self, text: str) -> bool:
        """Say whether the text after `before` is a legal number."""
        return text.startswith(self.before) and is_legal(self.number(text), self.column)

    def number(self, text: str) -> str:
        """Return the text after `before`."""
        return text[len(self.before) :]
