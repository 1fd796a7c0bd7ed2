"""Asking a model: the exact probability of every legal answer, numbers held to their column, and free greedy writing.

Each prompt is read once. Exact scoring then walks the trie of the legal answers' tokens in one further pass: all of a
trie's tokens stand in one sequence, an attention mask lets each see the prompt and its own ancestors only, and its
position is its depth. The head is applied to inner nodes alone, and only for digits where a number is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from linklab.cli import say
from linklab.inference import number_distributions
from linklab.inference.tries import Trie, build_trie, inner_part, needs_end
from linklab.models.chat import encode_prompt, end_token
from linklab.training.answer_loss import cap_logits

# In place of a token: any of the row's followers, the tokens that the next part of the answer may begin with
FOLLOWED = -1
BATCH_TOKENS = {"cuda": 8192, "cpu": 2048}  # 8192 of links hold 18 % padding, 2048 hold 5 %
# Attention holds a number for each (row, query, key): 4 million are 16 MB a mask in float32, whatever the choices.
ATTENTION_CELLS = 4_000_000
HEAD_ROWS = 256  # states the head is applied to at once: 256 x 262,144 logits in float32 are 268 MB


class Reading:
    """What a model has read of a batch of rows: cached keys and values, and which of them each row may see."""

    def __init__(self, rows: int) -> None:
        import torch
        from transformers import DynamicCache

        self.cache = DynamicCache()  # whole layers, no sliding ones: the window is in the mask
        self.valid = torch.zeros((rows, 0), dtype=torch.bool)  # (row, key)
        self.positions = torch.zeros((rows, 0), dtype=torch.long)  # (row, key)
        self.lengths = [0] * rows  # tokens of each row
        self.last = None  # (row, hidden): the state after each row's last token


class Asker:
    """A model and its tokenizer, ready to be asked in batches."""

    def __init__(self, model, tokenizer, *, batch_tokens: int | None = None) -> None:
        """`batch_tokens` bounds a batch's padded size (default: what keeps a GPU busy, or a CPU's padding small)."""
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer, self.batch_tokens = tokenizer, batch_tokens or BATCH_TOKENS[self.device]
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.model.config.use_cache = True
        self.end = end_token(tokenizer)
        self.number_tokens: dict[str, set[int]] = {}  # by what stands before the number
        self.number_starts: dict[str, list[int]] = {}
        self.trie_tokens: dict[tuple[str, ...], int] = {}  # by the choices

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a piece of an answer."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield lists of row numbers of like length whose padded size stays below `batch_tokens`."""
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) + 1) * lengths[i] > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def count_trie_tokens(self, example) -> int:
        """Return how many tokens the largest trie of a row's legal choices has: what scoring them reads at once."""

        def count(choices: Sequence[str]) -> int:
            key = tuple(choices)
            if key not in self.trie_tokens:
                self.trie_tokens[key] = len(build_trie([self.tokens(text) for text in choices]).tokens)
            return self.trie_tokens[key]

        return max(map(count, example.choices.values()), default=0)

    def read(self, reading: Reading, tokens: Sequence[Sequence[int]]) -> None:
        """Let the model read further tokens of every row."""
        chains = [Trie(list(row), list(range(-1, len(row) - 1)), list(range(1, len(row) + 1)), []) for row in tokens]
        hidden = self.forward(reading, chains, keep=True)
        for i, row in enumerate(tokens):
            reading.lengths[i] += len(row)
        reading.last = hidden[:, -1]

    def forget(self, reading: Reading, keys: int, lengths: Sequence[int], last) -> None:
        """Take `reading` back to where it held `keys` keys."""
        if extra := reading.valid.shape[1] - keys:
            reading.cache.crop(-extra)
        reading.valid, reading.positions = reading.valid[:, :keys], reading.positions[:, :keys]
        reading.lengths, reading.last = list(lengths), last

    def forward(self, reading: Reading, tries: Sequence[Trie], *, keep: bool):
        """Return the hidden states (rows, longest, hidden) of tries read after `reading`, each at the right end.

        With `keep` they become part of what was read, which only makes sense for tries that are chains.
        """
        import torch

        rows, longest = len(tries), max(len(trie.tokens) for trie in tries)
        ids = torch.full((rows, longest), self.tokenizer.pad_token_id or 0, dtype=torch.long)
        positions = torch.zeros((rows, longest), dtype=torch.long)
        among = torch.zeros((rows, longest, longest), dtype=torch.bool)  # (row, query, key), new tokens only
        valid = torch.zeros((rows, longest), dtype=torch.bool)
        for r, trie in enumerate(tries):
            first = longest - len(trie.tokens)
            ids[r, first:] = torch.tensor(trie.tokens)
            positions[r, first:] = torch.tensor(trie.depths) + (reading.lengths[r] - 1)
            valid[r, first:] = True
            if trie.parents == list(range(-1, len(trie.tokens) - 1)):  # a chain sees all before it
                among[r, first:, first:] = torch.ones(len(trie.tokens), len(trie.tokens)).tril().bool()
            else:
                for node, parent in enumerate(trie.parents):
                    if parent >= 0:
                        among[r, first + node] = among[r, first + parent]
                    among[r, first + node, first + node] = True
        padding = ~valid
        seen = reading.valid[:, None, :] & valid[:, :, None]
        # A query that may see nothing gives no number, so padding sees itself.
        among |= torch.diag_embed(padding)
        allowed = torch.cat([seen, among], dim=2)
        keys = torch.cat([reading.positions, positions], dim=1)
        window = getattr(self.model.config, "sliding_window", None)
        near = allowed & (positions[:, :, None] - keys[:, None, :] < window) if window else allowed
        with torch.inference_mode():
            hidden = self.model.model(
                input_ids=ids.to(self.device), position_ids=positions.to(self.device), use_cache=True,
                past_key_values=reading.cache, attention_mask={
                    "full_attention": allowed[:, None].to(self.device),
                    "sliding_attention": near[:, None].to(self.device),
                },
            ).last_hidden_state  # fmt: skip
        if keep:
            reading.valid, reading.positions = torch.cat([reading.valid, valid], dim=1), keys
        else:
            reading.cache.crop(-longest)
        return hidden

    def head(self, hidden, tokens=None):
        """Return the logits (…, vocab) of hidden states, or those of `tokens` alone."""
        import torch.nn.functional as functional

        weight = self.model.lm_head.weight if tokens is None else self.model.lm_head.weight[tokens]
        return cap_logits(functional.linear(hidden, weight).float(), self.model.config)

    def score_choices(
        self, reading: Reading, begun: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]],
        followers: Sequence[Sequence[int]] | None = None,
    ) -> list[list[float]]:  # fmt: skip
        """Return the natural log-probability of every choice (a token sequence) of every row.

        `begun` holds the tokens of the answer so far, which stand between what was read and the choice. A choice may
        end in FOLLOWED, which has the probability of the row's `followers` together. Many long choices are scored in
        parts, so that memory does not grow with the square of their tokens; no choice's score depends on the others.
        """
        import torch

        tries = [build_trie([[*start, *answer] for answer in answers])
                 for start, answers in zip(begun, choices, strict=True)]  # fmt: skip
        inner, places = zip(*map(inner_part, tries), strict=True)
        longest = max(len(trie.tokens) for trie in inner)
        if len(tries) * longest * (longest + reading.valid.shape[1]) > ATTENTION_CELLS and max(map(len, choices)) > 1:
            return self._score_in_halves(reading, begun, choices, followers)
        hidden = self.forward(reading, inner, keep=False) if any(trie.tokens for trie in inner) else None
        states, asked = [], []  # the states the head is applied to; of each row, (state, token) of its nodes
        for r, (trie, start) in enumerate(zip(tries, begun, strict=True)):
            first = 0 if hidden is None else hidden.shape[1] - len(inner[r].tokens)
            skip = len(start)
            at = {}
            for parent in dict.fromkeys(trie.parents[skip:]):
                at[parent] = len(states)
                states.append(reading.last[r] if parent < 0 else hidden[r, first + places[r][parent]])
            nodes = zip(trie.parents[skip:], trie.tokens[skip:], strict=True)
            asked.append([(at[parent], token, r) for parent, token in nodes])
        log_p = self._log_probabilities(torch.stack(states), [node for row in asked for node in row], followers)
        found, done = [], 0
        for trie, start, row in zip(tries, begun, asked, strict=True):
            own, done = log_p[done : done + len(row)], done + len(row)
            found.append([sum(own[node - len(start)] for node in path[len(start) :]) for path in trie.leaves])
        return found

    def _score_in_halves(
        self, reading: Reading, begun: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]],
        followers: Sequence[Sequence[int]] | None,
    ) -> list[list[float]]:  # fmt: skip
        """Return what `score_choices` does, from two calls of it; choices with tokens in common stay together."""
        orders = [sorted(range(len(answers)), key=answers.__getitem__) for answers in choices]
        found = [[0.0] * len(answers) for answers in choices]
        for half in (0, 1):
            parts = [order[: -(len(order) // -2)] if half == 0 else order[-(len(order) // -2) :] for order in orders]
            chosen = [[answers[i] for i in part] for answers, part in zip(choices, parts, strict=True)]
            for row, part, scores in zip(
                found, parts, self.score_choices(reading, begun, chosen, followers), strict=True
            ):
                for i, score in zip(part, scores, strict=True):
                    row[i] = score
        return found

    def _log_probabilities(self, states, asked: Sequence[tuple[int, int, int]], followers) -> list[float]:
        """Return log P(token | state) of every (state, token, row) asked; the states are headed HEAD_ROWS at a time."""
        import torch

        state, token, row = (torch.tensor(column, device=states.device) for column in zip(*asked, strict=True))
        found = torch.empty(len(asked), device=states.device)
        for start in range(0, len(states), HEAD_ROWS):
            scores = self.head(states[start : start + HEAD_ROWS])
            here = (state >= start) & (state < start + HEAD_ROWS)
            normal = torch.logsumexp(scores, dim=-1)
            found[here] = scores[state[here] - start, token[here]] - normal[state[here] - start]
            for i in (here & (token == FOLLOWED)).nonzero()[:, 0].tolist():
                at = state[i] - start
                found[i] = torch.logsumexp(scores[at, list(followers[row[i]])], dim=-1) - normal[at]
        return found.tolist()

    def write_numbers(
        self, reading: Reading, begun: Sequence[Sequence[int]], before: str, followers: Sequence[Sequence[int]], *,
        characters: int,
    ) -> list[str]:  # fmt: skip
        """Return the number every row's answer goes on with, chosen greedily among the tokens numbers are written in.

        It has at most `characters` characters: a model that knows no end would otherwise write digits for ever.
        `before` stands between the begun part and the number; it ends at the end of the turn or at one of the row's
        `followers`, the tokens the next part may begin with.
        """
        import torch

        end = {self.end, self.tokenizer.eos_token_id}
        stop = end.union(*followers)
        lead = set(self.tokens(before))
        numbers = self.tokens_of_numbers(before)
        allowed = sorted(numbers | stop)
        foreign = [[token not in numbers | end | set(own) for token in allowed] for own in followers]
        back_to = reading.valid.shape[1], list(reading.lengths), reading.last
        if any(begun):
            self.read(reading, begun)
        written = self._write_greedily(
            reading, characters + len(lead), stop, lead=lead,
            allowed=torch.tensor(allowed, device=self.device), foreign=torch.tensor(foreign, device=self.device),
        )  # fmt: skip
        self.forget(reading, *back_to)
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        # `before` may have been written again behind the number, and a space there would part it in two.
        return [text.split()[0][:characters] if text.split() else "" for text in texts]

    def _write_greedily(
        self, reading: Reading, limit: int, stop: set[int], *, allowed=None, foreign=None, lead=frozenset()
    ):
        """Return the tokens every row goes on with, the likeliest (among `allowed`) at each step, up to one in `stop`.

        `foreign` (rows, allowed) marks what is allowed to other rows only. A row has not begun, and so cannot stop,
        while it has written tokens of `lead` only. Written here rather than with generate(): that applies the head to
        (rows, 1, hidden), for which a CPU copies its weight once a row.
        """
        rows = len(reading.lengths)
        written: list[list[int]] = [[] for _ in range(rows)]
        open_rows = set(range(rows))
        picked: list[int] = []
        for _ in range(limit):
            if picked:  # read only when a further token is wanted
                self.read(reading, [[token] for token in picked])
            scores = self.head(reading.last, allowed)
            best = (scores if foreign is None else scores.masked_fill(foreign, -math.inf)).argmax(dim=-1)
            picked = (best if allowed is None else allowed[best]).tolist()
            for r in list(open_rows):
                if picked[r] in stop and (not lead or set(written[r]) - lead):
                    open_rows.discard(r)
                else:
                    written[r].append(picked[r])
            if not open_rows:
                break
        return written

    def first_tokens(self, task, position: int, row) -> list[int]:
        """Return the tokens the target at `position` of a row's answer may begin with; none behind the last target."""
        if position >= len(task.targets):
            return []
        target, before = task.targets[position], task.separator if position else ""
        if target.kind == "class":
            return sorted({self.tokens(before + text)[0] for text in row.choices[target.name]})
        return self._number_starts(before)

    def _number_starts(self, before: str) -> list[int]:
        if before not in self.number_starts:
            texts = [f"{before}{sign}{n}" for n in range(1000) for sign in ("", "-", "+", ".")]
            ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
            self.number_starts[before] = sorted({tokens[0] for tokens in ids})
        return self.number_starts[before]

    def tokens_of_numbers(self, before: str) -> set[int]:
        if before not in self.number_tokens:
            samples = [f"{sign}{n}" for n in range(1000) for sign in ("", "-")] + [
                f"{n / 10}" for n in range(-100, 100)
            ]
            encoded = self.tokenizer([before + text for text in samples], add_special_tokens=False)["input_ids"]
            self.number_tokens[before] = {token for ids in encoded for token in ids}
        return self.number_tokens[before]

    def write(
        self, prompts: Sequence[str], *, max_new_tokens: int, progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """Return what the model writes greedily after each prompt when nothing holds it."""
        heads = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        texts = [""] * len(heads)
        done = 0
        for batch in self.batches([len(head) + max_new_tokens for head in heads]):
            reading = Reading(len(batch))
            self.read(reading, [heads[i] for i in batch])
            written = self._write_greedily(reading, max_new_tokens, {self.end, self.tokenizer.eos_token_id})
            for i, text in zip(batch, self.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                texts[i] = text
            done += len(batch)
            if progress:
                progress(done)
        return texts


def load_asker(name: str, precision: str | None, base_model: str | None, batch_tokens: int | None = None) -> Asker:
    """Load a trained folder or any `--base-model` name, say how, and return it ready to be asked."""
    import torch

    from linklab.models import load
    from linklab.training.training import count_parameters

    chosen = load.choose_precision(precision, name)
    say(f"loading {name}: {chosen.name} on {load.device_name()}, {chosen.reason}")
    dtype = torch.bfloat16 if chosen.name == "bf16" else torch.float32
    load.keep_freed_memory()
    model, tokenizer = load.load_trained(name, base_model=base_model, dtype=dtype)
    load.fit_threads(count_parameters(model)[1])
    return Asker(model, tokenizer, batch_tokens=batch_tokens)


def answer_exactly(asker: Asker, examples, task, *, numbers: str | None = None, progress=None) -> list[dict]:
    """Return a prediction (see predictions.jsonl) of every example, held to what is legal.

    A class target gets the most probable of the row's legal choices, with every choice's probability among them; a
    number target the median of the numbers that may follow the choices before it, or with `numbers` "greedy" what the
    model writes greedily in digits.
    """
    prompts = [encode_prompt(asker.tokenizer, example.prompt) for example in examples]
    found: list[dict] = [{}] * len(examples)
    done = 0
    sizes = [max(len(prompt), asker.count_trie_tokens(e)) for prompt, e in zip(prompts, examples, strict=True)]
    for batch in asker.batches(sizes):
        reading = Reading(len(batch))
        asker.read(reading, [prompts[i] for i in batch])
        rows = [examples[i] for i in batch]
        raw, begun, rankings = [""] * len(rows), [[] for _ in rows], [{} for _ in rows]
        for position, target in enumerate(task.targets):
            before = task.separator if position else ""
            followers = [asker.first_tokens(task, position + 1, row) for row in rows]
            if target.kind == "class":
                texts = _choose(asker, reading, rows, target, begun, before, followers, rankings)
            elif numbers == "greedy":
                size = number_distributions.longest_number(task.schema[target.name])
                texts = asker.write_numbers(reading, begun, before, followers, characters=size)
            else:
                column = task.schema[target.name]
                given = number_distributions.distributions(asker, reading, begun, before, followers, column)
                texts = [number_distributions.weighted_median(row) for row in given]
            for r, text in enumerate(texts):
                raw[r] += before + text
                begun[r] += asker.tokens(before + text)
        for r, i in enumerate(batch):
            found[i] = finish_prediction(rows[r], raw[r], rankings[r], task)
        done += len(batch)
        if progress:
            progress(done)
    return found


def _choose(asker, reading, rows, target, begun, before: str, followers, rankings: list[dict]) -> list[str]:
    """Rank the legal choices of every row, and return the best of each.

    A choice counts with the end of the turn behind the last target, and where one begins another (1 and 10) with what
    may follow it: the `followers` of its row, all ways the next target can begin.
    """
    choices = []
    for row, following in zip(rows, followers, strict=True):
        answers = [asker.tokens(before + text) for text in row.choices[target.name]]
        if not following:
            answers = [[*answer, asker.end] for answer in answers]
        elif needs_end(answers):
            answers = [[*answer, FOLLOWED] for answer in answers]
        choices.append(answers)
    best = []
    scores = asker.score_choices(reading, begun, choices, followers)
    for row, ranking, log_p in zip(rows, rankings, scores, strict=True):
        top = max(log_p)
        normal = top + math.log(sum(math.exp(value - top) for value in log_p))
        ranked = sorted(zip(row.choices[target.name], log_p, strict=True), key=lambda pair: -pair[1])
        ranking[target.name] = [[name, value - normal] for name, value in ranked]
        best.append(ranked[0][0])
    return best


def answer_freely(asker: Asker, examples, task, *, max_new_tokens: int = 32, progress=None) -> list[dict]:
    """Return a prediction of every example from what the model writes when nothing holds it to the legal answers."""
    raw = asker.write([example.prompt for example in examples], max_new_tokens=max_new_tokens, progress=progress)
    return [finish_prediction(example, text, {}, task) for example, text in zip(examples, raw, strict=True)]


def finish_prediction(example, raw: str, ranking: dict, task) -> dict:
    """Return the predictions.jsonl value of one answer text."""
    answer, error = task.read_answer(raw, example.choices)
    return {
        "id": example.id, "raw_text": raw, "answer": answer if any(v is not None for v in answer.values()) else None,
        "error": error, "choices": ranking,
    }  # fmt: skip
