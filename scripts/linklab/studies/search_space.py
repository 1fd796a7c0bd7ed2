"""The settings a sweep tries, read from the command line: `learning_rate=log:1e-4:1e-3 lora_rank=8,16,32`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from linklab.training.options import TUNABLE, choices_of, flag_of, limits_of, read_value, write_value

if TYPE_CHECKING:
    import numpy as np
    from optuna.distributions import BaseDistribution

DRAWN_DIGITS = 3  # digits of a number drawn from a range; more would only make commands harder to read
_HOW = "write NAME=A,B,C for a list, NAME=LOW:HIGH for a range, NAME=log:LOW:HIGH for a logarithmic range"


@dataclasses.dataclass(frozen=True)
class Axis:
    """One setting to sweep: a list of choices, or a range if `choices` is empty."""

    name: str
    text: str
    choices: tuple = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def size(self) -> float:
        """Number of values; infinity for a range of fractions."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.whole else math.inf

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a value drawn at random."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        turn: Callable[[float], float] = math.log if self.log else float
        back: Callable[[float], float] = math.exp if self.log else float
        value = back(rng.uniform(turn(self.low), turn(self.high)))
        value = round(value) if self.whole else float(f"{value:.{DRAWN_DIGITS}g}")
        return min(max(value, self.low), self.high)

    def distribution(self) -> BaseDistribution:
        """Return the axis as an Optuna distribution."""
        from optuna import distributions

        if self.choices:
            return distributions.CategoricalDistribution(self.choices)
        kind = distributions.IntDistribution if self.whole else distributions.FloatDistribution
        return kind(self.low, self.high, log=self.log)

    def position(self, value: Any) -> float:
        """Return a value's position on a plotted axis, from 0 at the bottom to 1 at the top."""
        if self.choices:
            return self.choices.index(value) / max(len(self.choices) - 1, 1)
        turn: Callable[[float], float] = math.log if self.log else float
        return (turn(value) - turn(self.low)) / (turn(self.high) - turn(self.low))

    def ticks(self) -> list[tuple[float, str]]:
        """Return (position, text) of each tick of a plotted axis."""
        if self.choices:
            return [(self.position(value), write_value(value)) for value in self.choices]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [(self.position(value), f"{value:.3g}") for value in (self.low, middle, self.high)]


def parse_axis(text: str) -> Axis:
    """Argparse type: one setting and its values."""
    name, found, spec = text.partition("=")
    if not found or not spec:
        raise argparse.ArgumentTypeError(f"'{text}': {_HOW}")
    if name not in TUNABLE:
        raise argparse.ArgumentTypeError(
            f"'{name}' is not a setting that can be swept; these can: {', '.join(TUNABLE)}"
        )
    if ":" in spec:
        return _parse_range(name, text, spec)
    values = tuple(_read(name, part) for part in spec.split(","))
    if len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"'{text}': duplicate value")
    return Axis(name, text, values)


def _parse_range(name: str, text: str, spec: str) -> Axis:
    limits = limits_of(name)
    if limits is None:
        raise argparse.ArgumentTypeError(f"'{text}': expected a list of values from {', '.join(choices_of(name))}")
    parts = spec.split(":")
    log = parts[0] == "log"
    ends = parts[1:] if log else parts
    if len(ends) != 2:
        raise argparse.ArgumentTypeError(f"'{text}': {_HOW}")
    low, high = (_read(name, end) for end in ends)
    if not low < high:
        raise argparse.ArgumentTypeError(f"'{text}': {write_value(low)} is not below {write_value(high)}")
    if log and low <= 0:
        raise argparse.ArgumentTypeError(f"'{text}': a logarithmic range needs a lower end above 0")
    return Axis(name, text, (), low, high, log, limits.kind is int)


def _read(name: str, text: str) -> Any:
    """Return a value of the option; an error begins with the option's name."""
    try:
        return read_value(name, text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from None


def write_words(settings: dict) -> list[str]:
    """Return settings as options: {"lora_rank": 8} -> ["--lora-rank", "8"]."""
    return [word for name, value in settings.items() for word in (flag_of(name), write_value(value))]


def count_settings(axes: Sequence[Axis]) -> float:
    """Return the number of different settings; infinity with a range of fractions."""
    return math.prod(axis.size for axis in axes)


def grid(axes: Sequence[Axis]) -> list[dict]:
    """Return every combination of the lists; the last list changes fastest."""
    return [dict(zip([axis.name for axis in axes], values, strict=True))
            for values in itertools.product(*(axis.choices for axis in axes))]  # fmt: skip


def draw_distinct(axes: Sequence[Axis], seed: int, taken: Sequence[dict] = ()) -> Iterator[dict]:
    """Yield random settings, none twice and none of `taken`; the order depends only on the seed."""
    import numpy as np

    rng = np.random.default_rng(seed)
    seen = {tuple(settings[axis.name] for axis in axes) for settings in taken}
    while len(seen) < count_settings(axes):
        settings = {axis.name: axis.draw(rng) for axis in axes}
        key = tuple(settings.values())
        if key not in seen:
            seen.add(key)
            yield settings
