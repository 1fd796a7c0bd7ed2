"""Answer-only loss: equal to computing all logits and masking, and no row is lost in batches."""

import pytest
import torch
import torch.nn.functional as functional
from linklab.models import load, tiny
from linklab.training import answer_loss, fused_lora, head_loss
from training_runs import add_adapter, answer_losses, assert_same_gradients


@pytest.fixture(scope="module")
def encoded(read_links, tokenizer):
    found = answer_loss.EncodedExamples(read_links(16), tokenizer, 512)
    assert not found.too_long and len(set(found.lengths)) > 4  # with rows of one length, padding would not be tested
    return found


def make_model(tokenizer, mode):
    """Return the tiny model as built; for "lora" with adapters that are not zero."""
    model = tiny.build_model(tokenizer)
    return add_adapter(model) if mode == "lora" else model


def masked_full_logit_loss(model, items):
    """The definition, row by row without padding: all logits, then the mean over the answers' tokens."""
    return torch.cat([answer_losses(model, item["input_ids"], item["answers"][0][0]) for item in items]).mean()


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_answer_only_loss_and_gradient_are_those_of_the_masked_full_logits(mode, tokenizer, encoded):
    untouched, ours = make_model(tokenizer, mode), make_model(tokenizer, mode)
    answer_loss.use_answer_only_loss(ours.get_base_model() if mode == "lora" else ours)
    assert mode == "full" or fused_lora.fuse(ours) == 21  # 3 layers of 7
    items = [encoded[i] for i in range(6)]
    expected = masked_full_logit_loss(untouched, items)
    loss = ours(**answer_loss.AnswerCollator(tokenizer.pad_token_id)(items)).loss
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    loss.backward()
    assert_same_gradients(untouched, ours)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_padded_on_the_left_with_a_mask_have_the_loss_of_unpadded_rows(attention, tokenizer, encoded):
    model = tiny.build_model(tokenizer, attn_implementation=attention)
    items = [encoded[i] for i in range(5)]
    expected = masked_full_logit_loss(model, items)
    answer_loss.use_answer_only_loss(model)
    longest = max(len(item["input_ids"]) for item in items) + 3
    ids = torch.full((5, longest), tokenizer.pad_token_id)
    labels, mask = torch.full_like(ids, answer_loss.IGNORED), torch.zeros_like(ids)
    for i, item in enumerate(items):
        tokens = torch.tensor(item["input_ids"])
        start = longest - len(tokens)
        ids[i, start:], mask[i, start:] = tokens, 1
        first = item["answers"][0][0]
        labels[i, start + first :] = tokens[first:]
    assert model(input_ids=ids, labels=labels, attention_mask=mask).loss.item() == pytest.approx(
        expected.item(), abs=1e-5
    )
    assert abs(model(input_ids=ids, labels=labels).loss.item() - expected.item()) > 1e-4  # only because of the mask


def test_a_softcapped_head_is_capped_in_the_answer_only_loss_too(tokenizer, encoded):
    untouched, ours = (tiny.build_model(tokenizer, final_logit_softcapping=0.3) for _ in range(2))
    answer_loss.use_answer_only_loss(ours)
    items = [encoded[i] for i in range(3)]
    loss = ours(**answer_loss.AnswerCollator(0)(items)).loss
    assert loss.item() == pytest.approx(masked_full_logit_loss(untouched, items).item(), abs=1e-5)
    uncapped = tiny.build_model(tokenizer)
    assert abs(loss.item() - masked_full_logit_loss(uncapped, items).item()) > 1e-3


def test_without_labels_the_model_answers_as_before(tokenizer, encoded):
    untouched, ours = tiny.build_model(tokenizer).eval(), tiny.build_model(tokenizer).eval()
    answer_loss.use_answer_only_loss(ours)
    ids = torch.tensor([encoded[0]["input_ids"]])
    assert torch.equal(ours(input_ids=ids).logits, untouched(input_ids=ids).logits)
    assert torch.equal(ours.generate(ids, max_new_tokens=4), untouched.generate(ids, max_new_tokens=4))


def gradient_norm(model):
    return torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()])).item()


def test_eight_single_rows_accumulated_equal_one_batch_of_eight(tokenizer, encoded):
    collate = answer_loss.AnswerCollator(tokenizer.pad_token_id)
    items = [encoded[i] for i in range(8)]
    together, apart = tiny.build_model(tokenizer), tiny.build_model(tokenizer)
    for model in (together, apart):
        answer_loss.use_answer_only_loss(model)
    whole = together(**collate(items)).loss
    whole.backward()
    n_tokens = sum(end - start for item in items for start, end in item["answers"])
    total = 0.0
    for item in items:
        loss = apart(**collate([item]), num_items_in_batch=n_tokens).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), abs=1e-5)
    assert gradient_norm(apart) == pytest.approx(gradient_norm(together), rel=1e-4)


def test_the_collator_pads_on_the_right_and_labels_only_the_answer():
    items = [
        {"input_ids": [2, 11, 12, 13, 5], "shared": 0, "answers": [(3, 5)]},
        {"input_ids": [2, 21, 5], "shared": 0, "answers": [(1, 3)]},
    ]
    batch = answer_loss.AnswerCollator(pad_token_id=0)(items)
    x = answer_loss.IGNORED
    assert batch["input_ids"].tolist() == [[2, 11, 12, 13, 5], [2, 21, 5, 0, 0]]
    assert batch["labels"].tolist() == [[x, x, x, 13, 5], [x, 21, 5, x, x]]
    assert batch["labels"].dtype == torch.long


def test_an_answer_is_encoded_with_the_end_of_its_turn_and_the_prompt_as_the_chat_template_says(tokenizer, read_links):
    (row,) = read_links(1)
    item = answer_loss.EncodedExamples([row], tokenizer, 512)[0]
    ((start, end),) = item["answers"]
    assert end == len(item["input_ids"]) and item["shared"] == 0
    prompt = tokenizer.decode(item["input_ids"][:start])
    assert prompt == f"<bos><start_of_turn>user\n{row.prompt}<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.decode(item["input_ids"][start:]) == f"{row.answer}<end_of_turn>"


def test_a_row_that_is_too_long_is_named_and_none_is_cut(tokenizer, read_links):
    rows = read_links(12)
    whole = answer_loss.EncodedExamples(rows, tokenizer, 10_000)
    middle = sorted(whole.lengths)[6]
    tight = answer_loss.EncodedExamples(rows, tokenizer, middle)
    assert tight.too_long == [row.id for row, n in zip(rows, whole.lengths, strict=True) if n > middle]
    assert 0 < len(tight.too_long) < 12
    assert tight.items == whole.items


@pytest.mark.parametrize("n, rows", [(1, 8), (7, 8), (8, 8), (100, 8), (64, 8), (203, 4), (30, 1)])
@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_is_a_permutation_of_the_rows_and_its_incomplete_step_comes_last(n, rows, epoch):
    lengths = [10 + (7 * i) % 23 for i in range(n)]
    sampler = answer_loss.StepSampler(lengths, rows, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(sampler) == n and sorted(order) == list(range(n))
    for start in range(0, n, rows):  # steps as the Trainer makes them: the incomplete one must be last
        step = [lengths[i] for i in order[start : start + rows]]
        assert step == sorted(step, reverse=True)


def test_a_step_holds_rows_of_all_lengths():
    """Length depends on the answer; steps with one kind of row each make the training unstable."""
    lengths = [10] * 100 + [50] * 100
    steps = [
        list(answer_loss.StepSampler(lengths, 8, seed))[at : at + 8] for seed in range(4) for at in range(0, 200, 8)
    ]
    assert sum(len({lengths[i] for i in step}) == 2 for step in steps) / len(steps) > 0.95  # by chance: 1 - 2 / 2^8


def test_the_order_of_rows_depends_on_seed_and_epoch_alone():
    lengths = [10 + (7 * i) % 23 for i in range(100)]

    def order(seed, epoch, disturb=False):
        sampler = answer_loss.StepSampler(lengths, 8, seed)
        if disturb:  # earlier random numbers must not matter: a resumed run draws fewer
            torch.manual_seed(99)
            sampler.set_epoch(epoch + 1)
            list(sampler)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2, disturb=True)
    orders = [order(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_the_tiny_tokenizer_never_meets_a_text_it_cannot_write(tokenizer):
    for text in ("5775 594", "Ünïcode ✓ 中\n\ttab", "-61.5", "user model mode use"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_tied_head_of_the_tiny_model_survives_answer_only_training(tokenizer, encoded):
    model = load.load_model("tiny")
    answer_loss.use_answer_only_loss(model)
    model(**answer_loss.AnswerCollator(0)([encoded[0]])).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_fused_head_loss_is_cross_entropy_with_its_gradient():
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(5, 8, generator=generator, requires_grad=True)
    weight, targets = torch.randn(11, 8, generator=generator), torch.tensor([0, 3, 3, 10, 7])
    expected = functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(expected / 3, hidden)
    found = head_loss.total(hidden, weight, targets)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found / 3, hidden)[0], gradient, atol=1e-5, rtol=1e-5)


def test_the_head_is_fused_only_where_it_is_frozen_and_plain(tokenizer):
    ids = torch.tensor([[1]])
    assert not head_loss.can_fuse(tiny.build_model(tokenizer), ids)
    assert head_loss.can_fuse(tiny.build_model(tokenizer).requires_grad_(False), ids)
    assert not head_loss.can_fuse(tiny.build_model(tokenizer, final_logit_softcapping=3.0).requires_grad_(False), ids)
