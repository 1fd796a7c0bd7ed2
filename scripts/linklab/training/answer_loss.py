"""Loss on the answer only: the head (262,144 tokens) is computed only where an answer token is predicted.

The head is 168 M of Gemma 3 270M's 268 M parameters, and an answer is 9 of 135 tokens: at all positions it would cost
more than the rest of the model, and on a CPU a head on a batch of sequences also copies its weight for each.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from linklab.models.architecture import attention_masks, cap_logits, decoder_of, head_of, text_config
from linklab.models.tries import count_shared
from linklab.training import head_loss, packed_attention

if TYPE_CHECKING:
    from torch import Tensor

    from linklab.tasks.examples import Example, Question

IGNORED = -100  # label of positions that torch's cross_entropy and the Trainer's token count leave out


class AnswerCollator:
    """Makes a batch of encoded rows: padded on the right, with a mask for the padding."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask`, `position_ids`, `branches` and `labels`, all (batch, tokens).

        Labels are IGNORED outside the answers. `branches` is 0 for tokens that all questions of a row share, else the
        question's number from 1; in every branch, positions continue from the shared part. Rows with a weight add
        `row_weights`, (batch,).
        """
        import torch

        longest = max(len(item["input_ids"]) for item in items)
        input_ids = torch.full((len(items), longest), self.pad_token_id, dtype=torch.long)
        attention_mask, position_ids, branches = (torch.zeros_like(input_ids) for _ in range(3))
        labels = torch.full_like(input_ids, IGNORED)
        for i, item in enumerate(items):
            tokens = torch.tensor(item["input_ids"])
            input_ids[i, : len(tokens)] = tokens
            attention_mask[i, : len(tokens)] = 1
            position_ids[i, : item["shared"]] = torch.arange(item["shared"])
            start = item["shared"]
            for number, (answer_start, end) in enumerate(item["answers"], start=1):
                position_ids[i, start:end] = torch.arange(item["shared"], item["shared"] + end - start)
                branches[i, start:end] = number if len(item["answers"]) > 1 else 0
                labels[i, answer_start:end] = tokens[answer_start:end]
                start = end
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids,
                 "branches": branches, "labels": labels}  # fmt: skip
        if any("weight" in item for item in items):
            batch["row_weights"] = torch.tensor([item.get("weight", 1.0) for item in items])
        return batch


def use_answer_only_loss(causal_model: Any) -> None:
    """Make `causal_model(input_ids, labels)` return the answer-only loss; calls without labels do not change.

    Works under PEFT, DDP and autocast, because they all call the causal model's own `forward`. On a CPU the rows are
    packed first, so that no padding is computed.
    """
    packed_attention.use_row_attention(causal_model)
    plain_forward = causal_model.forward

    def forward(
        self: Any, input_ids: Any = None, labels: Any = None, attention_mask: Any = None, position_ids: Any = None,
        branches: Any = None, row_weights: Any = None, num_items_in_batch: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        if labels is None:
            return plain_forward(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
        return _answer_only(
            self, input_ids, labels, attention_mask, position_ids, branches, row_weights, num_items_in_batch
        )

    causal_model.forward = types.MethodType(forward, causal_model)


def _answer_only(
    model: Any, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None,
    branches: Tensor | None, row_weights: Tensor | None, num_items_in_batch: Any,
) -> Any:  # fmt: skip
    """Return the sum of the answer tokens' losses, each times its row's weight, divided by the number of tokens."""
    import torch
    import torch.nn.functional as functional
    from transformers.modeling_outputs import CausalLMOutput

    wanted = functional.pad(labels[:, 1:] != IGNORED, (0, 1))  # (batch, tokens), True one before each answer token
    answers = labels[:, 1:][wanted[:, :-1]]
    weights = None if row_weights is None else row_weights[:, None].expand(wanted.shape)[wanted]
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if input_ids.is_cuda:
        hidden = _read_padded(model, input_ids, attention_mask, position_ids, branches)
    else:
        read = real.bool() & (wanted | (labels == IGNORED))  # an answer's last token predicts nothing
        packed, positions, rows, places = packed_attention.pack(input_ids, read, branches)
        no_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool)  # unused: `packed_rows` holds the masks
        hidden = decoder_of(model)(
            input_ids=packed, position_ids=positions, packed_rows=rows, use_cache=False,
            attention_mask=attention_masks(model, no_mask, no_mask),
        ).last_hidden_state  # fmt: skip
        hidden, wanted = hidden[0], places[wanted[read]]
    count = len(answers) if num_items_in_batch is None else num_items_in_batch
    if model.training and head_loss.can_fuse(model, input_ids):
        return CausalLMOutput(loss=head_loss.total(hidden[wanted], head_of(model).weight, answers, weights) / count)
    logits = head_of(model)(hidden[wanted])  # (answer tokens, vocab): with two axes the weight is not copied
    logits = cap_logits(logits, text_config(model))
    losses = functional.cross_entropy(logits.float(), answers, reduction="none")
    total = losses.sum() if weights is None else losses @ weights
    return CausalLMOutput(loss=total / count, logits=None if model.training else logits)  # (answer tokens, vocab)


def _read_padded(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, branches: Tensor | None
) -> Tensor:
    """Return the last hidden states (batch, tokens, hidden) of a padded batch; used on GPUs."""
    decoder = decoder_of(model)
    if branches is None or not branches.any():
        return decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    window = getattr(text_config(model), "sliding_window", None)
    masks = packed_attention.padded_masks(branches, position_ids, attention_mask, window)
    masks = attention_masks(model, masks["full_attention"], masks["sliding_attention"])
    read = decoder(input_ids=input_ids, attention_mask=masks, position_ids=position_ids, use_cache=False)
    return read.last_hidden_state


class EncodedExamples:
    """A torch-style dataset of encoded rows or questions, tokenized once, kept as plain lists.

    An item holds a row's questions one after the other: `input_ids`, whose first `shared` tokens belong to all
    questions and appear once; and `answers`, (start, end) of each question's answer. A row with one question shares
    nothing. The shared part is found by comparing tokens.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: Any, max_length: int, *, batch_of: str = "rows") -> None:
        """Encode every example; `too_long` lists the ids with a question above `max_length` tokens; none is truncated.

        An item is a whole row, or with `batch_of` "questions" a single question.
        """
        self.items: list[dict] = []
        self.too_long: list[str] = []
        self.n_rows = len(examples)
        self.longest = 0  # tokens of the longest question with its answer
        for example in examples:
            turns = [encode_question(tokenizer, question) for question in example.answered]
            longest = max(len(prompt) + len(answer) for prompt, answer in turns)
            if longest > max_length:
                self.too_long.append(example.id)
            self.longest = max(self.longest, longest)
            self.items += [join_questions(own) for own in ([turns] if batch_of == "rows" else [[t] for t in turns])]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each item; shared tokens count once."""
        return [len(item["input_ids"]) for item in self.items]

    @property
    def answer_tokens(self) -> int:
        """Number of tokens in the loss."""
        return sum(end - start for item in self.items for start, end in item["answers"])


def encode_question(tokenizer: Any, question: Question) -> tuple[list[int], list[int]]:
    """Return the tokens of a question: (those before the answer, those of the answer)."""
    from linklab.models.chat import encode_answer, encode_prompt

    assert question.answer is not None, "training needs questions with an answer"
    return encode_prompt(tokenizer, question.prompt, question.history), encode_answer(tokenizer, question.answer)


def join_questions(turns: Sequence[tuple[list[int], list[int]]]) -> dict:
    """Return the item of a row: [([1, 2, 3], [7]), ([1, 2, 4], [8])] -> 1 2 | 3 7 | 4 8 with 2 shared tokens.

    A prompt's last token is never shared, because it predicts a different answer in every branch.
    """
    prompts = [prompt for prompt, _ in turns]
    shared = count_shared(prompts) if len(turns) > 1 else 0
    tokens, answers = prompts[0][:shared], []
    for prompt, answer in turns:
        tokens = tokens + prompt[shared:] + answer
        answers.append((len(tokens) - len(answer), len(tokens)))
    return {"input_ids": tokens, "shared": shared, "answers": answers}


class StepSampler:
    """Draws each optimizer step's items at random and sorts them by length, so that batches have little padding.

    Only the items of one step are sorted. Length depends on the number of candidates and so on the answer; steps with
    one kind of row each made the training unstable (validation loss .95 -> 1.46 -> .83, accuracy .68 after 4,000 rows).
    For the same reason a step's questions come from the whole table by default: those of one row have nearly the same
    answer (docs/results/experiments.md). The order depends only on seed and epoch.
    """

    def __init__(self, lengths: list[int], step_rows: int, seed: int) -> None:
        self.lengths, self.step_rows, self.seed, self.epoch = lengths, step_rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        import numpy as np

        rng = np.random.Generator(np.random.Philox(key=[self.seed, self.epoch]))
        order = rng.permutation(len(self.lengths)).tolist()
        for start in range(0, len(order), self.step_rows):
            yield from sorted(order[start : start + self.step_rows], key=lambda i: -self.lengths[i])
