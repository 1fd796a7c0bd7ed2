"""Simulate how often the intervals contain the true value, and how often the paired tests report a false difference.

nothing -> benchmarks/results/intervals.md

    python benchmarks/bench_intervals.py

Every data set is drawn from a distribution whose true value is known. No data, no model, no network; a few minutes.
"""

from __future__ import annotations

import argparse
import math

import bench
import numpy as np
from linklab import cli
from linklab.metrics import intervals

SIZES = (20, 50, 100, 200, 400, 1000, 2000)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
LEAST, MOST = 0.94, 0.965  # wanted coverage of an interval
MOST_REJECTED = 0.055  # wanted: at most so many false differences of a test at 5 %


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__, "intervals.md")
    parser.add_argument("--repeats", type=cli.positive_int, default=2000, metavar="N", help="data sets of a cell")
    parser.add_argument("--seed", type=cli.seed_number, default=0, metavar="N", help="seed of every draw")
    return parser


def wilson_coverage(n: int, share: float) -> float:
    """Return the exact probability that Wilson's interval contains the true `share`: a binomial sum, no simulation."""
    from scipy.stats import binom

    counts = np.arange(n + 1)
    ends = np.array([intervals.wilson(int(k), n) for k in counts])
    inside = (ends[:, 0] <= share) & (share <= ends[:, 1])
    return float(binom.pmf(counts[inside], n, share).sum())


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    """Return a markdown table and an empty line."""
    return [*bench.table(head, lines), ""]


def percent(share: float) -> str:
    """Write a share: 0.9512 -> "95.1"."""
    return f"{100 * share:.1f}"


def cover_shares(rng: np.random.Generator, repeats: int) -> tuple[list[str], dict[int, list[float]]]:
    """Return the coverage of independent rows' shares as a table, and the exact coverage of 97 shares for each n."""
    lines, exact = [], {}
    for n in SIZES:
        ends = np.array([intervals.wilson(k, n) for k in range(n + 1)])
        cells = []
        for share in SHARES:
            low, high = ends[rng.binomial(n, share, size=40 * repeats)].T
            cells.append(percent(float(np.mean((low <= share) & (share <= high)))))
        exact[n] = [wilson_coverage(n, share) for share in np.linspace(0.02, 0.98, 97)]
        lines.append([f"{n:,}", *cells])
    return table(["n", *(f"{share:g}" for share in SHARES)], lines), exact


def describe_exact(exact: dict[int, list[float]]) -> list[str]:
    """Return the exact coverage over the shares, per n: mean, smallest and largest, and how many are as wanted."""
    lines = []
    for n, covered in exact.items():
        inside = np.mean([LEAST <= value <= MOST for value in covered])
        lines.append([f"{n:,}", percent(np.mean(covered)), percent(min(covered)), percent(max(covered)),
                      f"{100 * inside:.0f} %"])  # fmt: skip
    return table(["n", "mean", "least", "most", "shares within 94 to 96.5 %"], lines)


def biggest_step(n: int) -> float:
    """Return the largest probability of a single count, over all shares: coverage jumps by it.

    It jumps when a count enters or leaves the interval at its edge, two standard deviations from the mean.
    """
    from scipy.stats import binom

    shares = np.linspace(0.02, 0.98, 97)
    edges = np.round(n * shares + 1.96 * np.sqrt(n * shares * (1 - shares)))
    return float(binom.pmf(edges, n, shares).max())


def cover_grouped(rng: np.random.Generator, repeats: int) -> list[str]:
    """Return the coverage of shares of rows in sites of five similar rows."""
    lines = []
    for n in SIZES:
        clusters, cells = np.arange(n) // 5, []
        for share, alike in ((0.2, 0.3), (0.5, 0.3), (0.8, 0.3), (0.8, 0.0), (0.95, 0.3)):
            inside = naive = 0
            for _ in range(repeats):
                if alike:  # beta-binomial: `alike` is the correlation of two rows of a site
                    a, b = share * (1 / alike - 1), (1 - share) * (1 / alike - 1)
                    chance = rng.beta(a, b, size=n // 5)[clusters]
                else:
                    chance = share
                hits = rng.random(n) < chance
                low, high = intervals.share_interval(hits, clusters)
                inside += low <= share <= high
                low, high = intervals.share_interval(hits)
                naive += low <= share <= high
            cells.append(f"{percent(inside / repeats)} ({percent(naive / repeats)})")
        lines.append([f"{n:,}", *cells])
    head = ["n", ".2, alike .3", ".5, alike .3", ".8, alike .3", ".8, alike 0", ".95, alike .3"]
    return table(head, lines)


DIFFERING = ((0.02, 0.02), (0.1, 0.1), (0.25, 0.25), (0.2, 0.1), (0.3, 0.05), (0.1, 0.0))
BOOTSTRAP_UP_TO = 200  # rows; above, the two intervals agree and the bootstrap takes long


def cover_differences(rng: np.random.Generator, repeats: int) -> list[str]:
    """Return the coverage of the difference of two shares on the same rows, in brackets that of the bootstrap."""
    lines = []
    for n in SIZES:
        rows, cells = np.arange(n), []
        for first, second in DIFFERING:
            pairs, times = np.unique(rng.multinomial(n, [first, second, 1 - first - second], size=repeats)[:, :2],
                                     axis=0, return_counts=True)  # fmt: skip
            inside = resampled = 0
            for (a, b), count in zip(pairs.tolist(), times.tolist(), strict=True):
                low, high = intervals.tango(a, b, n, intervals.Z)
                inside += count * (low <= first - second <= high)
                if n <= BOOTSTRAP_UP_TO:
                    statistic = intervals.mean_statistic(np.repeat([1.0, -1.0, 0.0], [a, b, n - a - b]))
                    low, high = intervals.bootstrap({"mean": statistic}, rows, resamples=1000)["mean"]
                    resampled += count * (low - 1e-12 <= first - second <= high + 1e-12)
            beside = f" ({percent(resampled / repeats)})" if n <= BOOTSTRAP_UP_TO else ""
            cells.append(percent(inside / repeats) + beside)
        lines.append([f"{n:,}", *cells])
        cli.say(f"differences, n {n}: {', '.join(cells)}")
    return table(["n", *(f"{first:g} and {second:g}" for first, second in DIFFERING)], lines)


DRAWS = {
    "normal": (lambda rng, size: rng.normal(1, 1, size), 1.0),
    "absolute error of a normal": (lambda rng, size: np.abs(rng.normal(0, 1, size)), math.sqrt(2 / math.pi)),
    "exponential": (lambda rng, size: rng.exponential(1, size), 1.0),
    "regret: 70 % zeros, else exponential": (
        lambda rng, size: (rng.random(size) < 0.3) * rng.exponential(1, size), 0.3,
    ),
}  # fmt: skip


def cover_means(rng: np.random.Generator, repeats: int) -> list[str]:
    """Return the coverage of the bootstrap interval of a mean: 1,000 resamples of each data set."""
    lines = []
    for n in SIZES:
        sets = repeats if n <= 400 else repeats // 4
        cells = []
        for draw, true in DRAWS.values():
            inside = 0
            for _ in range(sets):
                values = draw(rng, n)
                low, high = intervals.bootstrap({"mean": intervals.mean_statistic(values)}, np.arange(n),
                                                resamples=1000, seed=int(rng.integers(2**32)))["mean"]  # fmt: skip
                inside += low <= true <= high
            cells.append(percent(inside / sets))
        lines.append([f"{n:,}", *cells])
        cli.say(f"means, n {n}: {', '.join(cells)}")
    return table(["n", *DRAWS], lines)


def reject_mcnemar(rng: np.random.Generator, repeats: int) -> tuple[list[str], float]:
    """Return how often McNemar's exact test rejects two equally good runs, and the highest of these values."""
    lines, most, sizes = [], 0.0, (20, 50, 100, 400, 2000)
    known: dict[tuple[int, int], float] = {}
    for differing in (0.05, 0.2, 0.5):
        cells = []
        for n in sizes:
            discordant = rng.binomial(n, differing, size=10 * repeats)
            first = rng.binomial(discordant, 0.5)
            pairs = list(zip(first.tolist(), (discordant - first).tolist(), strict=True))
            for pair in set(pairs) - known.keys():
                known[pair] = intervals.mcnemar_p(*pair)
            rejected = np.mean([known[pair] < 0.05 for pair in pairs])
            most = max(most, rejected)
            cells.append(percent(rejected))
        lines.append([f"{100 * differing:.0f} % of rows differ", *cells])
    return table(["", *(f"n {n:,}" for n in sizes)], lines), most


def reject_sign_flip(rng: np.random.Generator, repeats: int) -> tuple[list[str], float]:
    """Return how often the sign-flip test rejects two exchangeable runs, and the highest of these values."""
    lines, most, sizes = [], 0.0, (20, 60, 200, 1000)
    ways = {
        "normal differences": (lambda n: rng.normal(size=n), 1),
        "accuracy: 40 % of rows differ": (lambda n: rng.choice([-1, 0, 1], n, p=[0.2, 0.6, 0.2]), 1),
        "regret: heavy tails, many zeros": (lambda n: (rng.random(n) < 0.3) * rng.standard_t(2, n), 1),
        "sites of 5 rows that fail together": (
            lambda n: np.repeat(rng.normal(size=n // 5), 5) + 0.3 * rng.normal(size=n), 5,
        ),
    }  # fmt: skip
    for name, (draw, size) in ways.items():
        cells = []
        for n in sizes:
            clusters = np.arange(n) // size
            rejected = np.mean([
                intervals.sign_flip_p(draw(n), clusters, flips=999, seed=int(rng.integers(2**32))) < 0.05
                for _ in range(4 * repeats)
            ])  # fmt: skip
            most = max(most, rejected)
            cells.append(percent(rejected))
        lines.append([name, *cells])
        cli.say(f"sign flip, {name}: {', '.join(cells)}")
    return table(["", *(f"n {n:,}" for n in sizes)], lines), most


def reject_family(rng: np.random.Generator, repeats: int) -> float:
    """Return how often any of 12 runs equal to one reference is called different after Holm's adjustment."""
    n, runs, wrong = 400, 12, 0
    for _ in range(repeats):
        easy = rng.beta(2, 1, size=n)  # probability of a right answer per row, the same for every run
        right = rng.random((runs + 1, n)) < easy
        p = [intervals.mcnemar_p(int((one & ~right[0]).sum()), int((~one & right[0]).sum())) for one in right[1:]]
        wrong += min(intervals.holm(p)) < 0.05
    return wrong / repeats


def run(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    shares, exact = cover_shares(rng, args.repeats)
    cli.say("shares done")
    grouped = cover_grouped(rng, args.repeats)
    cli.say("grouped shares done")
    mcnemar, most_mcnemar = reject_mcnemar(rng, args.repeats)
    flip, most_flip = reject_sign_flip(rng, args.repeats)
    family = reject_family(rng, args.repeats)
    means = cover_means(rng, args.repeats)
    differences = cover_differences(rng, args.repeats)
    error = 100 * math.sqrt(0.95 * 0.05 / args.repeats)
    steps = ", ".join(f"{100 * biggest_step(n):.1f} points at n {n:,}" for n in SIZES)
    bench.write_page(args.out, [
        "# How far the intervals and tests can be trusted", "",
        f"`python benchmarks/bench_intervals.py`: {args.repeats:,} data sets per cell (40 times as many for "
        "independent shares, 10 times for McNemar's test, 4 times for sign flips, a quarter for means of n above 400), "
        f"seed {args.seed}; one standard error of a cell of {args.repeats:,} is {error:.2f} points. All in percent.",
        "",
        "## Shares of independent rows: Wilson's interval, simulated", "",
        "Columns are the true share.", "", *shares,
        "The same without simulation: exact binomial sums over 97 shares from .02 to .98.", "", *describe_exact(exact),
        "From n = 400 every share is within 94 to 96.5 %. With fewer rows no interval of a count can be: counts are "
        "whole numbers, and as the share changes, a whole count enters or leaves the interval at its edge. The count "
        "two standard errors above the mean alone has a probability of up to " + steps + ". The coverage of Wilson's "
        "interval varies around 95 %; an interval that never covers less (Clopper and Pearson's) covers more almost "
        "everywhere, and is wider.", "",
        "## Shares of rows in sites of five", "",
        "True share, and the correlation of two rows of a site; in brackets what the interval covers if the sites are "
        "ignored.", "", *grouped,
        "20 rows are four sites here and 50 are ten: the similarity of rows must be estimated from so few, and is "
        "often wrong. Claims about grouped rows need at least twenty groups, and more if the share is near 0 or 1.",
        "",
        "## Differences of two shares on the same rows: Tango's interval", "",
        "Columns are the shares of rows that only the first run and only the second gets right; in brackets the "
        "coverage of the bootstrap.", "", *differences,
        "If two runs differ in few rows, a sample may contain no difference. Then the bootstrap has nothing to "
        "resample: its interval is the point 0, which covers the true difference only if that is 0. "
        "Tango's interval of n rows without a difference is ± 3.84 / (n + 3.84).", "",
        "## Means: percentile bootstrap with Hesterberg's small-sample ends", "", *means,
        "In the skewed columns coverage is low at small n, because the tail is not in the sample; resampling cannot "
        "add it.", "",
        "## Tests between two runs that are equally good, at 5 %", "",
        "McNemar's exact test:", "", *mcnemar, "Sign-flip test (whole groups flip together):", "", *flip,
        f"Highest values: McNemar {percent(most_mcnemar)}, sign flip {percent(most_flip)} "
        f"(wanted: at most {percent(MOST_REJECTED)}). Any of 12 equal runs called different after Holm's adjustment: "
        f"{percent(family)}.",
    ])  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
