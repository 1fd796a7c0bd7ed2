"""Asking a model: the exact probability of every legal answer, and free greedy writing.

Exact scoring walks the trie of the legal answers' tokens in one forward pass: prompt and trie stand in one sequence, an
attention mask lets every trie token see the prompt and its own ancestors only, and its position is its depth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from linklab.model.chat import encode_prompt, end_token


@dataclasses.dataclass
class Trie:
    """The distinct token prefixes of a set of answers, parents before children."""

    tokens: list[int]  # the token of each node
    parents: list[int]  # the index of its parent, -1 below the prompt
    depths: list[int]  # 1 for the first token of an answer
    leaves: list[list[int]]  # for every answer the nodes of its tokens, in order


def build_trie(answers: Sequence[Sequence[int]]) -> Trie:
    """Return the trie of token sequences: [[5, 1], [5, 7]] -> nodes 5, 1, 7."""
    trie = Trie([], [], [], [])
    known: dict[tuple[int, int], int] = {}
    for answer in answers:
        path, parent = [], -1
        for token in answer:
            node = known.get((parent, token))
            if node is None:
                node = known[parent, token] = len(trie.tokens)
                trie.tokens.append(token)
                trie.parents.append(parent)
                trie.depths.append(len(path) + 1)
            path.append(node)
            parent = node
        trie.leaves.append(path)
    return trie


def needs_end(answers: Sequence[Sequence[int]]) -> bool:
    """Say whether one answer's tokens begin another's, so that only the token after it tells them apart."""
    known = {tuple(answer) for answer in answers}
    return any(tuple(answer[:n]) in known for answer in answers for n in range(1, len(answer)))


class Asker:
    """A model and its tokenizer, ready to be asked in batches."""

    def __init__(self, model, tokenizer, *, batch_tokens: int = 8192) -> None:
        """`batch_tokens` bounds a batch's padded size."""
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, self.tokenizer, self.batch_tokens = model.eval().to(self.device), tokenizer, batch_tokens
        self.model.config.use_cache = True
        self.end = end_token(tokenizer)

    def score_choices(
        self, prompts: Sequence[str], begun: Sequence[str], choices: Sequence[Sequence[str]], *, last: bool,
        after: str = "", progress: Callable[[int], None] | None = None,
    ) -> list[list[float]]:  # fmt: skip
        """Return the natural log-probability of every choice of every prompt, after the answer's begun part.

        The probability is that of the choice's tokens and, where the answer ends here (`last`) or one choice begins
        another, of the token that follows it: the end of the turn, or the first of `after`.
        """
        rows = []
        for prompt, start, texts in zip(prompts, begun, choices, strict=True):
            head = encode_prompt(self.tokenizer, prompt) + self._tokens(start)
            answers = [self._tokens(text) for text in texts]
            if last:
                answers = [answer + [self.end] for answer in answers]
            elif needs_end(answers):
                answers = [answer + self._tokens(after)[:1] for answer in answers]
            rows.append((head, build_trie(answers)))
        result: list[list[float]] = [[] for _ in rows]
        done = 0
        for batch in self._batches([len(head) + len(trie.tokens) for head, trie in rows]):
            for i, scores in zip(batch, self._score_batch([rows[i] for i in batch]), strict=True):
                result[i] = scores
            done += len(batch)
            if progress:
                progress(done)
        return result

    def _score_batch(self, rows: list[tuple[list[int], Trie]]) -> list[list[float]]:
        import torch

        longest = max(len(head) + len(trie.tokens) for head, trie in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id or 0, dtype=torch.long)
        positions = torch.zeros((len(rows), longest), dtype=torch.long)
        allowed = torch.zeros((len(rows), longest, longest), dtype=torch.bool)  # (row, query, key)
        for r, (head, trie) in enumerate(rows):
            n, total = len(head), len(head) + len(trie.tokens)
            ids[r, :total] = torch.tensor(head + trie.tokens)
            positions[r, :n] = torch.arange(n)
            allowed[r, :n, :n] = torch.ones(n, n).tril().bool()
            for node, (parent, depth) in enumerate(zip(trie.parents, trie.depths, strict=True)):
                at = n + node
                positions[r, at] = n - 1 + depth
                allowed[r, at] = allowed[r, n + parent if parent >= 0 else n - 1]
                allowed[r, at, at] = True
            rest = torch.arange(total, longest)
            allowed[r, rest, rest] = True  # padding sees itself: a row of the mask with nothing in it gives no number
        logits = self._logits(ids, positions, allowed, rows)
        return [self._sum_paths(trie, row) for (_, trie), row in zip(rows, logits, strict=True)]

    def _logits(self, ids, positions, allowed, rows):
        """Return for each row the log-probabilities (1 + nodes, vocab) after the prompt's end and after each node."""
        import torch

        window = getattr(self.model.config, "sliding_window", None)
        distance = positions[:, :, None] - positions[:, None, :]
        near = allowed & (distance < window) if window else allowed
        masks = {"full_attention": allowed[:, None].to(self.device), "sliding_attention": near[:, None].to(self.device)}
        with torch.inference_mode():
            hidden = self.model.model(
                input_ids=ids.to(self.device), position_ids=positions.to(self.device), attention_mask=masks, use_cache=False
            ).last_hidden_state
            found = []
            for r, (head, trie) in enumerate(rows):
                at = hidden[r, len(head) - 1 : len(head) + len(trie.tokens)]  # (1 + nodes, hidden)
                inner = sorted({parent for parent in trie.parents})  # a leaf's own successor is never asked for
                scores = self.model.lm_head(at[[parent + 1 for parent in inner]]).float()
                if (cap := getattr(self.model.config, "final_logit_softcapping", None)) is not None:
                    scores = (scores / cap).tanh() * cap
                rows_of = {parent: i for i, parent in enumerate(inner)}
                own = torch.tensor([rows_of[parent] for parent in trie.parents])
                token = torch.tensor(trie.tokens)
                normal = torch.logsumexp(scores, dim=-1).cpu()
                found.append((scores[own.to(self.device), token.to(self.device)].cpu() - normal[own]).tolist())
        return found

    def _sum_paths(self, trie: Trie, node_scores: list[float]) -> list[float]:
        return [sum(node_scores[node] for node in path) for path in trie.leaves]

    def write(
        self, prompts: Sequence[str], begun: Sequence[str], *, max_new_tokens: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:  # fmt: skip
        """Return what the model writes greedily after each prompt and the begun part of its answer."""
        import torch

        heads = [
            encode_prompt(self.tokenizer, prompt) + self._tokens(start)
            for prompt, start in zip(prompts, begun, strict=True)
        ]
        texts = [""] * len(heads)
        done = 0
        for batch in self._batches([len(head) + max_new_tokens for head in heads]):
            longest = max(len(heads[i]) for i in batch)
            ids = torch.full((len(batch), longest), self.tokenizer.pad_token_id or 0, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for r, i in enumerate(batch):
                ids[r, longest - len(heads[i]) :] = torch.tensor(heads[i])
                mask[r, longest - len(heads[i]) :] = 1
            with torch.inference_mode():
                out = self.model.generate(
                    input_ids=ids.to(self.device), attention_mask=mask.to(self.device), max_new_tokens=max_new_tokens,
                    do_sample=False, top_p=None, top_k=None, eos_token_id=[self.end, self.tokenizer.eos_token_id],
                    pad_token_id=self.tokenizer.pad_token_id,
                )  # fmt: skip
            for i, text in zip(batch, self.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True), strict=True):
                texts[i] = text
            done += len(batch)
            if progress:
                progress(done)
        return texts

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _batches(self, lengths: list[int]):
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


def answer_exactly(asker: Asker, examples, task, *, max_number_tokens: int = 12, progress=None) -> list[dict]:
    """Return a prediction (see predictions.jsonl) of every example: the most probable legal choice of each class target,
    and for a number target what the model writes after the choices made before it."""
    import math

    begun = [""] * len(examples)
    answers: list[dict] = [{} for _ in examples]
    rankings: list[dict] = [{} for _ in examples]
    raw = [""] * len(examples)
    prompts = [example.prompt for example in examples]
    for position, target in enumerate(task.targets):
        last = position == len(task.targets) - 1
        if target.kind == "class":
            choices = [example.choices[target.name] for example in examples]
            scores = asker.score_choices(prompts, begun, choices, last=last, after=task.separator, progress=progress)
            texts = []
            for i, (names, values) in enumerate(zip(choices, scores, strict=True)):
                top = max(values)
                normal = top + math.log(sum(math.exp(value - top) for value in values))
                ranked = sorted(zip(names, values, strict=True), key=lambda pair: -pair[1])
                rankings[i][target.name] = [[name, value - normal] for name, value in ranked]
                texts.append(ranked[0][0])
        else:
            texts = [
                text.split(task.separator)[0].strip()
                for text in asker.write(prompts, begun, max_new_tokens=max_number_tokens, progress=progress)
            ]
        for i, text in enumerate(texts):
            answers[i][target.name] = text
            raw[i] += ("" if position == 0 else task.separator) + text
            begun[i] = raw[i] + ("" if last else task.separator)
    return [finish_prediction(*parts, task) for parts in zip(examples, raw, rankings, strict=True)]


def answer_freely(asker: Asker, examples, task, *, max_new_tokens: int = 32, progress=None) -> list[dict]:
    """Return a prediction of every example from what the model writes when nothing holds it to the legal answers."""
    raw = asker.write(
        [example.prompt for example in examples], [""] * len(examples), max_new_tokens=max_new_tokens, progress=progress
    )
    return [finish_prediction(example, text, {}, task) for example, text in zip(examples, raw, strict=True)]


def finish_prediction(example, raw: str, ranking: dict, task) -> dict:
    """Return the predictions.jsonl value of one answer text."""
    answer, error = task.read_answer(raw, example.choices)
    return {
        "id": example.id, "raw_text": raw, "answer": answer if any(v is not None for v in answer.values()) else None,
        "error": error, "choices": ranking,
    }  # fmt: skip
