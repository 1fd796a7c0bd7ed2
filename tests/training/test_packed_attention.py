"""Packed rows give the same states as transformers for each row alone."""

import pytest
import torch
from linklab.models import tiny
from linklab.training import answer_loss, packed_attention


def make_items(lengths, vocab, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"input_ids": torch.randint(6, vocab, (n,), generator=generator).tolist(), "shared": 0, "answers": [(n - 3, n)]}
        for n in lengths
    ]


def hidden_of_rows(model, items):
    """Return the last hidden states of packed rows, (all tokens, hidden), row by row."""
    batch = answer_loss.AnswerCollator(0)(items)
    ids, positions, rows, places = packed_attention.pack(batch["input_ids"], batch["attention_mask"])
    return model.model(
        input_ids=ids, position_ids=positions, packed_rows=rows, use_cache=False,
        attention_mask={"full_attention": None, "sliding_attention": None},
    ).last_hidden_state[0][places]  # fmt: skip


def with_common_beginnings(items):
    """Give rows common beginnings: two share all they can, one shares a part, one is there twice."""
    first = items[0]["input_ids"]
    for item, shared in zip(items[1:], (5, 12, 30, 0), strict=True):
        item["input_ids"][:shared] = first[:shared]
    return [*items, items[2]]


@pytest.mark.parametrize("block", [1, 60, 10_000])  # each row alone; some rows together; all of them
@pytest.mark.parametrize("window", [512, 16, 5])
def test_packed_rows_give_the_states_that_transformers_computes_for_each_row_alone(
    window, block, tokenizer, monkeypatch
):
    monkeypatch.setattr(packed_attention, "BLOCK", block)
    items = with_common_beginnings(make_items([40, 7, 16, 37, 61], len(tokenizer)))
    plain = tiny.build_model(tokenizer, sliding_window=window).eval()
    packed = tiny.build_model(tokenizer, sliding_window=window).eval()
    packed_attention.use_row_attention(packed)
    alone = [plain.model(input_ids=torch.tensor([item["input_ids"]])).last_hidden_state[0] for item in items]
    torch.testing.assert_close(hidden_of_rows(packed, items), torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_a_window_changes_what_a_long_row_sees(tokenizer):
    """Otherwise the test above would not notice a missing window."""
    wide, narrow = (tiny.build_model(tokenizer, sliding_window=window).eval() for window in (512, 16))
    ids = torch.tensor([make_items([61], len(tokenizer))[0]["input_ids"]])
    assert (wide.model(ids).last_hidden_state - narrow.model(ids).last_hidden_state).abs().max() > 1e-2


def test_padding_on_either_side_gives_the_loss_of_the_unpadded_row(tokenizer):
    model = tiny.build_model(tokenizer)
    answer_loss.use_answer_only_loss(model)
    (item,) = make_items([30], len(tokenizer))
    ids = torch.tensor(item["input_ids"])
    labels = ids.clone()
    labels[: item["answers"][0][0]] = answer_loss.IGNORED
    losses = []
    for left, right in ((0, 0), (5, 0), (0, 9), (3, 4)):
        padded = torch.nn.functional.pad(ids, (left, right))
        mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        wanted = torch.nn.functional.pad(labels, (left, right), value=answer_loss.IGNORED)
        losses.append(model(input_ids=padded[None], attention_mask=mask[None], labels=wanted[None]).loss.item())
    assert losses[1:] == [losses[0]] * 3


def test_pack_drops_the_padding_and_keeps_common_prefixes_once():
    ids = torch.tensor([[0, 0, 7, 8], [7, 8, 6, 9], [3, 0, 0, 0], [7, 5, 8, 0]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]])
    packed, positions, rows, places = packed_attention.pack(ids, mask)
    assert packed.tolist() == [[7, 8, 6, 9, 3, 5, 8]]
    assert positions.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert places.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 5, 6]
    assert rows.lengths == [7]


def test_a_branch_continues_from_the_header_and_rows_with_equal_headers_share_it(monkeypatch):
    ids, branches = torch.tensor([[1, 2, 3, 4, 3], [1, 2, 3, 5, 6]]), torch.tensor([[0, 0, 1, 1, 2], [0, 0, 1, 2, 2]])
    packed, positions, rows, places = packed_attention.pack(ids, torch.ones_like(ids), branches)
    assert packed.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert positions.tolist() == [[0, 1, 2, 3, 2, 3]]
    assert places.tolist() == [0, 1, 2, 3, 2, 0, 1, 2, 4, 5]
    assert packed_attention.seen_within(rows.blocks[0], None).int().tolist() == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 1],
    ]  # fmt: skip
    monkeypatch.setattr(packed_attention, "BLOCK", 9)
    assert packed_attention.pack(ids, torch.ones_like(ids), branches)[2].lengths == [4, 5]
