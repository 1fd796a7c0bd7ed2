"""Compare the speed of the ways to get answers from the embedded Gemma 3 270M, and what each way returns.

generated links, embedded weights -> benchmarks/results/evaluate.md

    python benchmarks/bench_evaluate.py

- generate, one row at a time: as in a first script; text only.
- generate, in batches: transformers' own, rows sorted by length, left padding, the fastest of several batch sizes. It
  writes as many tokens as the true answer has, because a fine-tuned model stops there.
- brute force: a forward pass over prompt + choice for every legal channel, choices sorted by length, in batches, the
  head at the choice's positions only, the fastest of several batch sizes. It returns the same probabilities of the
  channels as exact scoring, and no throughput.
- exact scoring, channels only: the result of brute force, but each prompt is read once and the channels as a trie.
- exact scoring and a greedy number: every legal channel's probability, and the throughput written digit by digit.
- exact scoring, the default of evaluate_model.py: every legal channel's probability, and the throughput's median.

All ways get the same prompts, weights, precision and threads. They alternate slice by slice of the rows, so that a
machine that slows down slows all of them. Brute force and exact scoring must agree within 1e-4.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import bench
from linklab import cli

CHANNEL = "recommended_channel_mhz"
GENERATE, BATCHED, BRUTE = "generate, one at a time", "generate, batched", "brute force"
CHANNELS, GREEDY, EXACT = "exact scoring, channels only", "exact scoring, greedy number", "exact scoring"
TOLERANCE = 1e-4  # of a log-probability, between brute force and exact scoring


def build_parser() -> argparse.ArgumentParser:
    parser = bench.make_parser(__doc__, "evaluate.md")
    parser.add_argument("--model", default="embedded", metavar="NAME", help="embedded, tiny or a folder")
    parser.add_argument("--rows", type=cli.positive_int, default=200, metavar="N", help="rows to answer")
    parser.add_argument("--slices", type=cli.positive_int, default=5, metavar="N", help="turns each way takes")
    parser.add_argument("--tries", type=cli.positive_int, default=16, metavar="N", help="rows to try batch sizes on")
    parser.add_argument("--batch-sizes", default="1,2,4,8,16", type=cli.comma_list, metavar="N,N", help="to be tried")
    cli.add_precision_options(parser)
    return parser


def pad_left(rows: list[list[int]], pad: int):
    """Return (token ids, mask), both (rows, longest)."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def cut(items: list, size: int) -> list[list]:
    """Split the items into lists of `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def generate(scorer, examples, size: int) -> dict[str, str]:
    """Let transformers write each answer, as long as the longest true answer of its batch."""
    import torch
    from linklab.models.chat import encode_answer, encode_prompt

    tokenizer, texts = scorer.tokenizer, {}
    rows = [(encode_prompt(tokenizer, e.prompt), len(encode_answer(tokenizer, e.answer)), e.id) for e in examples]
    for batch in cut(sorted(rows, key=lambda row: len(row[0])), size):
        ids, mask = pad_left([prompt for prompt, *_ in batch], tokenizer.pad_token_id)
        length = max(answer for _, answer, _ in batch)
        with torch.inference_mode():
            written = scorer.model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=length, eos_token_id=None,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        found = tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
        texts |= {name: text for (_, _, name), text in zip(batch, found, strict=True)}
    return texts


def brute_force(scorer, examples, size: int) -> dict[str, dict[str, float]]:
    """Return each row's log-probability of every legal channel from a forward pass over prompt + channel."""
    import torch
    from linklab.models.chat import encode_prompt
    from linklab.models.tries import needs_end

    asked = []
    for example in examples:
        prompt, choices = encode_prompt(scorer.tokenizer, example.prompt), example.choices[CHANNEL]
        answers = [scorer.tokens(choice) for choice in choices]
        assert not needs_end(answers), "channels have four digits each: none is the beginning of another"
        asked += [(prompt, answer, example.id, choice) for choice, answer in zip(choices, answers, strict=True)]
    found: dict[str, dict[str, float]] = {example.id: {} for example in examples}
    for batch in cut(sorted(asked, key=lambda one: len(one[0])), size):
        ids, mask = pad_left([prompt + answer for prompt, answer, *_ in batch], scorer.tokenizer.pad_token_id)
        longest = max(len(answer) for _, answer, *_ in batch)
        with torch.inference_mode():
            logits = scorer.model(
                input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=longest + 1
            ).logits
            log_p = torch.log_softmax(logits[:, :-1].float(), dim=-1)  # (rows, longest, vocab)
        for own, (_, answer, name, choice) in zip(log_p, batch, strict=True):
            places = range(longest - len(answer), longest)
            found[name][choice] = sum(own[at, token].item() for at, token in zip(places, answer, strict=True))
    return {name: normalise(scores) for name, scores in found.items()}


def normalise(scores: dict[str, float]) -> dict[str, float]:
    """Return log-probabilities that sum to 1 over the legal channels."""
    from linklab.models.tries import log_sum

    normal = log_sum(list(scores.values()))
    return {choice: score - normal for choice, score in scores.items()}


def score_channels(scorer, examples) -> dict[str, dict[str, float]]:
    """Return the result of `brute_force`, computed by reading each prompt once and a trie of its channels."""
    from linklab.inference.choice_scorer import PromptCache
    from linklab.models.chat import encode_prompt

    prompts, found = [encode_prompt(scorer.tokenizer, example.prompt) for example in examples], {}
    for batch in scorer.batches([len(prompt) for prompt in prompts]):
        cache = PromptCache(len(batch))
        scorer.read(cache, [prompts[i] for i in batch])
        choices = [examples[i].choices[CHANNEL] for i in batch]
        answers = [[scorer.tokens(choice) for choice in own] for own in choices]
        for i, own, scores in zip(batch, choices, scorer.score_choices(cache, [[]] * len(batch), answers), strict=True):
            found[examples[i].id] = normalise(dict(zip(own, scores, strict=True)))
    return found


def best_size(ask, examples, sizes: list[int], name: str) -> tuple[int, dict[int, float]]:
    """Return the fastest batch size on these rows, and rows per second of each."""
    speeds = {}
    for size in sizes:
        started = time.perf_counter()
        ask(examples, size)
        speeds[size] = len(examples) / (time.perf_counter() - started)
        cli.say(f"{name}, {size} at a time: {speeds[size]:.2f} rows/s")
    return max(speeds, key=speeds.get), speeds


def run(args) -> None:
    from linklab.inference import row_answers
    from linklab.models import load
    from linklab.tasks.examples import read_examples
    from linklab.tasks.task import make_task

    sizes = [int(size) for size in args.batch_sizes]
    with tempfile.TemporaryDirectory() as folder, load.quiet_transformers():
        csv_path = bench.make_links(Path(folder) / "data", max(200, args.rows * 12), seed=5)
        task = make_task(csv_path, ask="row")  # brute force and generation take one question per row
        examples = read_examples(csv_path, task, "test", args.rows)
        if len(examples) < args.rows:
            raise cli.UserError(f"only {len(examples)} test rows were generated, fewer than --rows {args.rows}")
        scorer = row_answers.load_scorer(row_answers.AskSettings(args.model, precision=args.precision))
        precision = str(scorer.model.dtype).removeprefix("torch.")

        def ask_generate(rows, size):
            return generate(scorer, rows, size)

        def ask_brute(rows, size):
            return brute_force(scorer, rows, size)

        def ask_exact(rows, numbers="median"):
            given = row_answers.answer_exactly(scorer, rows, task, numbers=numbers, rank_by="summed")
            return {one["id"]: dict(one["choices"][CHANNEL]) for one in given}

        few = examples[: args.tries]
        ask_exact(few[:2])  # warm-up: later calls reuse what the first one builds
        written_size, written_speeds = best_size(ask_generate, few, sizes, BATCHED)
        brute_size, brute_speeds = best_size(ask_brute, few, sizes, BRUTE)
        ways = {
            GENERATE: lambda rows: ask_generate(rows, 1), BATCHED: lambda rows: ask_generate(rows, written_size),
            BRUTE: lambda rows: ask_brute(rows, brute_size), CHANNELS: lambda rows: score_channels(scorer, rows),
            GREEDY: lambda rows: ask_exact(rows, "greedy"), EXACT: ask_exact,
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        worst = 0.0
        for number, rows in enumerate(cut(examples, math.ceil(len(examples) / args.slices)), start=1):
            found = {}
            for name, ask in ways.items():
                started = time.perf_counter()
                found[name] = ask(rows)
                seconds[name].append(time.perf_counter() - started)
                cli.say(f"slice {number} of {args.slices}, {name}: {len(rows) / seconds[name][-1]:.2f} rows/s")
            worst = max(worst, *(abs(found[BRUTE][e.id][choice] - found[way][e.id][choice])
                                 for way in (CHANNELS, GREEDY, EXACT) for e in rows
                                 for choice in e.choices[CHANNEL]))  # fmt: skip
        if precision == "float32" and worst > TOLERANCE:
            raise cli.UserError(f"brute force and exact scoring differ by {worst:.1e} in a log-probability")

    choices = statistics.mean(len(example.choices[CHANNEL]) for example in examples)
    tried = {BATCHED: (written_size, written_speeds), BRUTE: (brute_size, brute_speeds)}
    bench.write_page(args.out, describe(args, seconds, tried, bench.describe_machine(), precision, choices, worst))


def describe(args, seconds, tried, machine: str, precision: str, choices: float, worst: float) -> list[str]:
    """Return the result as lines of markdown."""
    import torch
    import transformers

    total = {name: sum(times) for name, times in seconds.items()}
    gives = {
        GENERATE: "text", BATCHED: "text", BRUTE: "every legal channel's probability",
        CHANNELS: "every legal channel's probability",
        GREEDY: "the same, and a throughput", EXACT: "the same, and the throughput's median",
    }  # fmt: skip
    lines = [
        "# Speed of the ways to get an answer from a model", "",
        f"`python benchmarks/bench_evaluate.py`: {args.model}, {precision}, {torch.get_num_threads()} threads, "
        f"{args.rows} link rows with {choices:.1f} legal channels each on average, both targets in the answer.",
        f"Machine: {machine}. torch {torch.__version__}, transformers {transformers.__version__}.", "",
    ]  # fmt: skip
    share, rows = args.rows / len(seconds[EXACT]), []
    for name, times in seconds.items():
        size = f" ({tried[name][0]} at a time)" if name in tried else ""
        slices = f"{share / max(times):.2f} to {share / min(times):.2f}"
        against = f"{total[name] / total[EXACT]:.2f}"
        rows.append((f"{name}{size}", gives[name], f"{args.rows / total[name]:.2f}", against, slices))
    head = ("way", "returns", "rows/s", "seconds, exact scoring = 1", "slowest and fastest slice, rows/s")
    lines += bench.table(head, rows, left=2)
    against_text, with_median = total[BATCHED] / total[GREEDY], total[BATCHED] / total[EXACT]
    against_brute = total[BRUTE] / total[CHANNELS]
    lines += [
        "", f"Exact scoring against batched generation, both with a channel and greedy digits: {against_text:.2f} "
        f"times as fast (wanted: at least 1), {with_median:.2f} times with the median. Against brute force, both with "
        f"the channels' probabilities: {against_brute:.2f} times (wanted: at least 5); if exact scoring also gives a "
        f"throughput, {total[BRUTE] / total[GREEDY]:.2f} times, with its median {total[BRUTE] / total[EXACT]:.2f}. "
        f"Largest difference between brute force and exact scoring in a log-probability: {worst:.1e}.", "",
    ]  # fmt: skip
    for name, (_, speeds) in tried.items():
        shown = ", ".join(f"{size}: {speed:.2f}" for size, speed in speeds.items())
        lines.append(f"Batch sizes tried for {name}, on {args.tries} rows (rows/s): {shown}.")
    return lines


if __name__ == "__main__":
    raise SystemExit(bench.start(build_parser(), run))
