"""Loss on the answer only, and the 262,144-word head computed at answer positions alone.

The head is 168 M of Gemma 3 270M's 268 M parameters, and an answer is 9 of 135 tokens: computing it everywhere costs
more than the rest of the model, and on a CPU a head applied to a batch of sequences also copies its weight for each.
"""

from __future__ import annotations

import types

IGNORED = -100  # torch's cross_entropy and the Trainer's token count leave these positions out


class AnswerCollator:
    """Pads encoded examples on the right: a causal model never sees the padding, so no mask is needed."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, items: list[dict]) -> dict:
        """Return `input_ids` and `labels`, both (batch, tokens); labels hold the answer and IGNORED elsewhere."""
        import torch

        longest = max(len(item["input_ids"]) for item in items)
        input_ids = torch.full((len(items), longest), self.pad_token_id, dtype=torch.long)
        labels = torch.full((len(items), longest), IGNORED, dtype=torch.long)
        for i, item in enumerate(items):
            tokens = torch.tensor(item["input_ids"])
            input_ids[i, : len(tokens)] = tokens
            labels[i, item["answer_start"] : len(tokens)] = tokens[item["answer_start"] :]
        return {"input_ids": input_ids, "labels": labels}


def use_answer_only_loss(causal_model) -> None:
    """Make `causal_model(input_ids, labels)` return the answer-only loss; calls without labels are as before.

    Works below PEFT, DDP and autocast, because they all end in the causal model's own `forward`.
    """
    plain_forward = causal_model.forward

    def forward(self, input_ids=None, labels=None, attention_mask=None, num_items_in_batch=None, **kwargs):
        if labels is None:
            return plain_forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        return _answer_only(self, input_ids, labels, attention_mask, num_items_in_batch)

    causal_model.forward = types.MethodType(forward, causal_model)


def _answer_only(model, input_ids, labels, attention_mask, num_items_in_batch):
    import torch.nn.functional as functional
    from transformers.modeling_outputs import CausalLMOutput

    hidden = model.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != IGNORED  # (batch, tokens - 1): the position before each answer token
    logits = model.lm_head(hidden[:, :-1][wanted])  # (answer tokens, vocab): two axes, so no weight is copied
    if (cap := getattr(model.config, "final_logit_softcapping", None)) is not None:
        logits = (logits / cap).tanh() * cap
    total = functional.cross_entropy(logits.float(), labels[:, 1:][wanted], reduction="sum")
    count = wanted.sum() if num_items_in_batch is None else num_items_in_batch
    return CausalLMOutput(loss=total / count)


class EncodedExamples:
    """A torch-style dataset of encoded examples, tokenised once, kept as plain lists."""

    def __init__(self, examples, tokenizer, max_length: int) -> None:
        """Encode every example; `too_long` counts those above `max_length`, the answer included. None is cut."""
        from linklab.model.chat import encode_answer, encode_prompt

        self.items = []
        self.too_long: list[str] = []
        for example in examples:
            prompt = encode_prompt(tokenizer, example.prompt)
            tokens = prompt + encode_answer(tokenizer, example.answer)
            if len(tokens) > max_length:
                self.too_long.append(example.id)
            self.items.append({"input_ids": tokens, "answer_start": len(prompt)})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [len(item["input_ids"]) for item in self.items]

    @property
    def answer_tokens(self) -> int:
        """Tokens the loss is taken over."""
        return sum(len(item["input_ids"]) - item["answer_start"] for item in self.items)


class LengthGroupedSampler:
    """An order that puts rows of like length into one batch, depending on seed and epoch alone.

    Rows are shuffled, taken `MEGABATCH` batches at a time, sorted by length within, and the batches shuffled again:
    little padding, and still a fresh mixture each epoch.
    """

    MEGABATCH = 8

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        import numpy as np

        rng = np.random.Generator(np.random.Philox(key=[self.seed, self.epoch]))
        order = rng.permutation(len(self.lengths))
        span = self.batch_size * self.MEGABATCH
        batches = []
        for start in range(0, len(order), span):
            group = sorted(order[start : start + span].tolist(), key=lambda i: -self.lengths[i])
            batches += [group[i : i + self.batch_size] for i in range(0, len(group), self.batch_size)]
        # An incomplete batch stays last: anywhere else it would shift the borders of all that follow.
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [i for batch in batches if len(batch) < self.batch_size for i in batch]
        for position in rng.permutation(len(whole)):
            yield from whole[position]
        yield from rest
