"""Score answers with a model: the exact probability of every legal answer, and free greedy writing.

Each prompt is read once. Exact scoring then reads the trie of the legal answers' tokens in one more pass: all tokens of
the trie are one sequence, an attention mask lets each token see only the prompt and its own ancestors, and its position
is its depth. The head is applied only to inner nodes, and only for the tokens of numbers if a number is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from linklab.models.architecture import attention_masks, cap_logits, decoder_of, head_of, text_config
from linklab.models.chat import end_token
from linklab.models.load import device_name
from linklab.models.tries import Trie, build_trie, inner_part, seen_nodes
from linklab.tasks.examples import Example
from linklab.tasks.task import Task

# Placeholder for any one of a row's `next_tokens`, with which the next part of the answer can begin
ANY_NEXT = -1
BATCH_TOKENS = {"cuda": 8192, "cpu": 2048}  # for links: 18 % padding at 8192, 5 % at 2048
# Attention needs a number per (row, query, key); this limit keeps a float32 mask below 16 MB for any set of choices.
ATTENTION_CELLS = 4_000_000
HEAD_ROWS = 256  # states per call of the head: 256 x 262,144 logits in float32 are 268 MB


class PromptCache:
    """The tokens a model has read for a batch of rows: cached keys and values, and which of them each row sees."""

    def __init__(self, rows: int) -> None:
        import torch
        from transformers import DynamicCache

        self.key_values = DynamicCache()  # full caches for sliding-window layers too: the mask holds the window
        self.valid = torch.zeros((rows, 0), dtype=torch.bool)  # (row, key)
        self.positions = torch.zeros((rows, 0), dtype=torch.long)  # (row, key)
        self.lengths = [0] * rows  # tokens of each row
        self.last: Any = None  # (row, hidden): the state after each row's last token

    def select(self, rows: list[int]) -> PromptCache:
        """Return a cache with copies of these rows, so that one prompt can be continued in several ways."""
        chosen = PromptCache(len(rows))
        for number, layer in enumerate(self.key_values.layers):
            chosen.key_values.update(layer.keys[rows], layer.values[rows], number)
        chosen.valid, chosen.positions = self.valid[rows], self.positions[rows]
        chosen.lengths = [self.lengths[row] for row in rows]
        chosen.last = None if self.last is None else self.last[rows]
        return chosen


class ChoiceScorer:
    """A model and its tokenizer, ready to score and write answers in batches."""

    def __init__(self, model: Any, tokenizer: Any, *, batch_tokens: int | None = None) -> None:
        """`batch_tokens` limits a batch's padded size (default: BATCH_TOKENS for the device)."""

        self.device = device_name()
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens or BATCH_TOKENS["cpu" if self.device == "cpu" else "cuda"]
        self.model = model.eval().requires_grad_(False).to(self.device)
        text_config(self.model).use_cache = True
        self.end = end_token(tokenizer)
        self.number_tokens: dict[str, set[int]] = {}  # text before the number -> tokens of numbers
        self.number_starts: dict[str, list[int]] = {}  # text before the number -> first tokens
        self.trie_tokens: dict[tuple[str, ...], int] = {}  # choices -> tokens of their trie

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a piece of an answer."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield lists of row indices: rows of similar length, at most `batch_tokens` tokens with padding."""
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) + 1) * lengths[i] > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def count_trie_tokens(self, example: Example) -> int:
        """Return how many tokens scoring reads at once: those of the largest trie of a row's legal choices."""

        def count(choices: Sequence[str]) -> int:
            key = tuple(choices)
            if key not in self.trie_tokens:
                self.trie_tokens[key] = len(build_trie([self.tokens(text) for text in choices]).tokens)
            return self.trie_tokens[key]

        return max(map(count, example.choices.values()), default=0)

    def read(self, cache: PromptCache, tokens: Sequence[Sequence[int]]) -> None:
        """Let the model read more tokens of every row."""
        chains = [Trie(list(row), list(range(-1, len(row) - 1)), list(range(1, len(row) + 1)), []) for row in tokens]
        hidden = self.forward(cache, chains, keep=True)
        for i, row in enumerate(tokens):
            cache.lengths[i] += len(row)
        cache.last = hidden[:, -1]

    def rewind(self, cache: PromptCache, keys: int, lengths: Sequence[int], last: Any) -> None:
        """Return `cache` to an earlier state with `keys` keys."""
        if extra := cache.valid.shape[1] - keys:
            cache.key_values.crop(-extra)
        cache.valid, cache.positions = cache.valid[:, :keys], cache.positions[:, :keys]
        cache.lengths, cache.last = list(lengths), last

    def read_side_by_side(
        self, cache: PromptCache, tokens: Sequence[Sequence[int]], ancestors: Sequence[Sequence[Sequence[int]]]
    ) -> tuple[Any, list[list[int]]]:
        """Read one more token of several beginnings per row; returns the states and the cache columns of the new keys.

        A token sees the row's prompt, itself and its own beginning: its `ancestors` are the columns of these keys in
        `cache`, equally many for every token. The states are (all tokens, hidden). Later tokens see the new keys only
        through `ancestors`.
        """
        import torch

        depth = next(len(own) for row in ancestors for own in row) + 1
        tries = [Trie(list(row), [-1] * len(row), [depth] * len(row), []) for row in tokens]
        before = cache.valid
        hidden = self.forward(cache, tries, keep=True, ancestors=ancestors)
        cache.valid = torch.cat([before, torch.zeros(hidden.shape[:2], dtype=torch.bool)], dim=1)
        firsts = [hidden.shape[1] - len(row) for row in tokens]
        columns = [
            [before.shape[1] + first + i for i in range(len(row))] for first, row in zip(firsts, tokens, strict=True)
        ]
        return torch.cat([hidden[r, first:] for r, first in enumerate(firsts)]), columns

    def forward(
        self, cache: PromptCache, tries: Sequence[Trie], *, keep: bool,
        ancestors: Sequence[Sequence[Sequence[int]]] | None = None,
    ) -> Any:  # fmt: skip
        """Return the hidden states (rows, longest, hidden) of tries read after `cache`, aligned to the right.

        With `keep` the tokens stay in the cache; use it only for tries without branches. `ancestors`, per (row, token),
        are columns of `cache` that the token sees in addition to those its whole row sees.
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
            positions[r, first:] = torch.tensor(trie.depths) + (cache.lengths[r] - 1)
            valid[r, first:] = True
            among[r, first:, first:] = seen_nodes(trie)
        padding = ~valid
        seen = cache.valid[:, None, :] & valid[:, :, None]
        for r, row in enumerate(ancestors or ()):
            for at, columns in enumerate(row, start=longest - len(row)):
                seen[r, at, columns] = True
        # Attention over nothing gives NaN, so padding sees itself.
        among |= torch.diag_embed(padding)
        allowed = torch.cat([seen, among], dim=2)
        keys = torch.cat([cache.positions, positions], dim=1)
        window = getattr(text_config(self.model), "sliding_window", None)
        near = allowed & (positions[:, :, None] - keys[:, None, :] < window) if window else allowed
        with torch.inference_mode():
            masks = attention_masks(self.model, allowed[:, None].to(self.device), near[:, None].to(self.device))
            hidden = decoder_of(self.model)(
                input_ids=ids.to(self.device), position_ids=positions.to(self.device), use_cache=True,
                past_key_values=cache.key_values, attention_mask=masks,
            ).last_hidden_state  # fmt: skip
        if keep:
            cache.valid, cache.positions = torch.cat([cache.valid, valid], dim=1), keys
        else:
            cache.key_values.crop(-longest)
        return hidden

    def head(self, hidden: Any, tokens: Any = None) -> Any:
        """Return the logits (…, vocab) of hidden states, or only those of `tokens`."""
        import torch.nn.functional as functional

        head = head_of(self.model)
        weight, bias = (x if x is None or tokens is None else x[tokens] for x in (head.weight, head.bias))
        return cap_logits(functional.linear(hidden, weight, bias).float(), text_config(self.model))

    def score_choices(
        self, cache: PromptCache, starts: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]],
        next_tokens: Sequence[Sequence[int]] | None = None,
    ) -> list[list[float]]:  # fmt: skip
        """Return the natural log-probability of every choice (a token sequence) of every row, summed over its tokens.

        Same arguments as `score_tokens`. The score of a choice does not depend on the other choices.
        """
        found = self.score_tokens(cache, starts, choices, next_tokens)
        return [[sum(scores) for scores in row] for row in found]

    def score_tokens(
        self, cache: PromptCache, starts: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]],
        next_tokens: Sequence[Sequence[int]] | None = None,
    ) -> list[list[list[float]]]:  # fmt: skip
        """Return the natural log-probability of every token of every choice (a token sequence) of every row.

        `starts` holds the answer's tokens between the prompt and the choice. A choice may end in ANY_NEXT, which gets
        the summed probability of the row's `next_tokens`. Many long choices are scored in parts, because memory grows
        with the square of their tokens.
        """
        import torch

        tries = [build_trie([[*start, *answer] for answer in answers])
                 for start, answers in zip(starts, choices, strict=True)]  # fmt: skip
        inner, places = zip(*map(inner_part, tries), strict=True)
        longest = max(len(trie.tokens) for trie in inner)
        if len(tries) * longest * (longest + cache.valid.shape[1]) > ATTENTION_CELLS and max(map(len, choices)) > 1:
            return self._score_in_halves(cache, starts, choices, next_tokens)
        hidden: Any = self.forward(cache, inner, keep=False) if any(trie.tokens for trie in inner) else None
        states: list[Any] = []  # states for the head
        wanted: list[list[tuple[int, int, int]]] = []  # per row: (state, token, row) of each node
        for r, (trie, start) in enumerate(zip(tries, starts, strict=True)):
            first = 0 if hidden is None else hidden.shape[1] - len(inner[r].tokens)
            skip = len(start)
            at: dict[int, int] = {}
            for parent in dict.fromkeys(trie.parents[skip:]):
                at[parent] = len(states)
                states.append(cache.last[r] if parent < 0 else hidden[r, first + places[r][parent]])
            nodes = zip(trie.parents[skip:], trie.tokens[skip:], strict=True)
            wanted.append([(at[parent], token, r) for parent, token in nodes])
        log_p = self._log_probabilities(torch.stack(states), [node for row in wanted for node in row], next_tokens)
        found, done = [], 0
        for trie, start, row in zip(tries, starts, wanted, strict=True):
            own, done = log_p[done : done + len(row)], done + len(row)
            found.append([[own[node - len(start)] for node in path[len(start) :]] for path in trie.leaves])
        return found

    def _score_in_halves(
        self, cache: PromptCache, starts: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]],
        next_tokens: Sequence[Sequence[int]] | None,
    ) -> list[list[list[float]]]:  # fmt: skip
        """Return the result of `score_tokens` from two calls with half the choices each, sorted to share prefixes."""
        orders = [sorted(range(len(row)), key=list(map(list, row)).__getitem__) for row in choices]  # by their tokens
        found: list[list[list[float]]] = [[[]] * len(answers) for answers in choices]
        for half in (0, 1):
            parts = [order[: -(len(order) // -2)] if half == 0 else order[-(len(order) // -2) :] for order in orders]
            chosen = [[answers[i] for i in part] for answers, part in zip(choices, parts, strict=True)]
            scored = self.score_tokens(cache, starts, chosen, next_tokens)
            for row, part, scores in zip(found, parts, scored, strict=True):
                for i, score in zip(part, scores, strict=True):
                    row[i] = score
        return found

    def _log_probabilities(
        self, states: Any, wanted: Sequence[tuple[int, int, int]], next_tokens: Sequence[Sequence[int]] | None
    ) -> list[float]:
        """Return log P(token | state) for every (state, token, row); the head gets HEAD_ROWS states at a time."""
        import torch

        state, token, row = (torch.tensor(column, device=states.device) for column in zip(*wanted, strict=True))
        found = torch.empty(len(wanted), device=states.device)
        for start in range(0, len(states), HEAD_ROWS):
            scores = self.head(states[start : start + HEAD_ROWS])
            here = (state >= start) & (state < start + HEAD_ROWS)
            normal = torch.logsumexp(scores, dim=-1)
            found[here] = scores[state[here] - start, token[here]] - normal[state[here] - start]
            for i in (here & (token == ANY_NEXT)).nonzero()[:, 0].tolist():
                assert next_tokens is not None, "a choice with ANY_NEXT needs next_tokens"
                at = state[i] - start
                found[i] = torch.logsumexp(scores[at, list(next_tokens[row[i]])], dim=-1) - normal[at]
        return found.tolist()

    def next_tokens(self, task: Task, position: int, row: Example) -> list[int]:
        """Return the tokens that may follow the target at `position` of a row's answer, [] if nothing can.

        A fixed text after the target (in JSON, after the last one too), else the first tokens of the next target.
        """
        if behind := task.form.after(position):
            return self.tokens(behind)[:1]
        if position + 1 == len(task.targets):
            return []
        target, before = task.targets[position + 1], task.form.before(position + 1)
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
        self, prompts: Sequence[list[int]], *, max_new_tokens: int, progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """Return what the model writes greedily, without restrictions, after each encoded prompt."""
        texts = [""] * len(prompts)
        done = 0
        for batch in self.batches([len(prompt) + max_new_tokens for prompt in prompts]):
            cache = PromptCache(len(batch))
            self.read(cache, [prompts[i] for i in batch])
            for i, text in zip(batch, self.write_after(cache, max_new_tokens=max_new_tokens), strict=True):
                texts[i] = text
            done += len(batch)
            if progress:
                progress(done)
        return texts

    def write_after(self, cache: PromptCache, *, max_new_tokens: int) -> list[str]:
        """Return what the model writes greedily, without restrictions, after each row of `cache`.

        Not with generate(): it applies the head to (rows, 1, hidden), and a CPU then copies the head's weight per row.
        """
        stop = {self.end, self.tokenizer.eos_token_id}
        written: list[list[int]] = [[] for _ in cache.lengths]
        open_rows = set(range(len(written)))
        picked: list[int] = []
        for _ in range(max_new_tokens):
            if picked:  # read only when another token is needed
                self.read(cache, [[token] for token in picked])
            picked = self.head(cache.last).argmax(dim=-1).tolist()
            for r in list(open_rows):
                if picked[r] in stop:
                    open_rows.discard(r)
                else:
                    written[r].append(picked[r])
            if not open_rows:
                break
        return self.tokenizer.batch_decode(written, skip_special_tokens=True)
