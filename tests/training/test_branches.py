"""One row, several questions: shared tokens computed once give the loss and gradients of separate conversations."""

import dataclasses

import pytest
import torch
import torch.nn.functional as functional
from linklab.models import tiny
from linklab.training import answer_loss, packed_attention
from training_runs import answer_losses, assert_same_gradients


@pytest.fixture(scope="module")
def rows(read_links):
    return read_links(6, ask="choices")


def separate_loss(model, rows, tokenizer):
    """The definition: every question a separate conversation, all logits, the mean over all answer tokens."""
    losses = []
    for row in rows:
        for question in row.questions:
            prompt, answer = answer_loss.encode_question(tokenizer, question)
            losses.append(answer_losses(model, prompt + answer, len(prompt)))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("window", [512, 24])
@pytest.mark.parametrize("backwards", [False, True])
def test_branches_have_the_loss_and_gradients_of_separate_conversations(window, backwards, tokenizer, rows):
    untouched, ours = (tiny.build_model(tokenizer, sliding_window=window) for _ in range(2))
    answer_loss.use_answer_only_loss(ours)
    expected = separate_loss(untouched, rows, tokenizer)
    if backwards:
        rows = [dataclasses.replace(row, questions=row.questions[::-1]) for row in rows]
    encoded = answer_loss.EncodedExamples(rows, tokenizer, 512)
    assert all(item["shared"] > 10 and len(item["answers"]) > 2 for item in encoded.items)
    loss = ours(**answer_loss.AnswerCollator(0)(encoded.items)).loss
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    loss.backward()
    assert_same_gradients(untouched, ours)


def test_a_padded_batch_with_masks_has_the_same_loss(tokenizer, rows):
    """The way of a GPU: the same masks in a padded batch."""
    model = tiny.build_model(tokenizer, sliding_window=24)
    expected = separate_loss(model, rows, tokenizer)
    batch = answer_loss.AnswerCollator(0)(answer_loss.EncodedExamples(rows, tokenizer, 512).items)
    assert batch["attention_mask"].sum() < batch["attention_mask"].numel()  # there is padding
    labels = batch.pop("labels")
    hidden = answer_loss._read_padded(model, **batch)
    scores = functional.log_softmax(model.lm_head(hidden)[:, :-1].double(), dim=-1)
    loss = functional.nll_loss(scores.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=answer_loss.IGNORED)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_shared_tokens_appear_once_and_positions_continue_from_them_in_every_branch():
    item = answer_loss.join_questions([([2, 11, 12, 13], [7, 5]), ([2, 11, 14, 15, 13], [8, 9, 5])])
    assert item == {"input_ids": [2, 11, 12, 13, 7, 5, 14, 15, 13, 8, 9, 5], "shared": 2, "answers": [(4, 6), (9, 12)]}
    batch = answer_loss.AnswerCollator(0)([item])
    x = answer_loss.IGNORED
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7]]
    assert batch["branches"].tolist() == [[0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]]
    assert batch["labels"].tolist() == [[x, x, x, x, 7, 5, x, x, x, 8, 9, 5]]


def test_questions_with_equal_prompts_share_all_tokens_but_the_last():
    item = answer_loss.join_questions([([2, 3, 4], [7]), ([2, 3, 4], [8])])
    assert item == {"input_ids": [2, 3, 4, 7, 4, 8], "shared": 2, "answers": [(3, 4), (5, 6)]}


def test_a_token_sees_the_header_and_its_own_branch_no_further_back_than_the_window():
    branches, positions = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 3, 2]])
    far = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert packed_attention.seen_tokens(branches, positions, None)[0].int().tolist() == far
    far[2][0] = far[3][0] = far[3][1] = far[4][0] = 0
    assert packed_attention.seen_tokens(branches, positions, 2)[0].int().tolist() == far


def test_a_row_is_too_long_when_one_of_its_questions_is(tokenizer, rows):
    whole = answer_loss.EncodedExamples(rows, tokenizer, 10_000)
    assert whole.longest < min(whole.lengths)  # all questions of a row together are longer than any of them
    assert answer_loss.EncodedExamples(rows, tokenizer, whole.longest).too_long == []
    assert answer_loss.EncodedExamples(rows, tokenizer, whole.longest - 1).too_long != []


def test_a_question_without_an_answer_is_left_out(tokenizer, rows):
    known, *others = rows[0].questions
    row = dataclasses.replace(rows[0], questions=(known, *(q._replace(answer=None) for q in others)))
    (item,) = answer_loss.EncodedExamples([row], tokenizer, 512).items
    prompt, answer = answer_loss.encode_question(tokenizer, known)
    assert item == {"input_ids": prompt + answer, "shared": 0, "answers": [(len(prompt), len(prompt + answer))]}


def test_a_batch_of_questions_has_an_item_per_question_and_the_loss_of_the_rows(tokenizer, rows):
    model = tiny.build_model(tokenizer)
    answer_loss.use_answer_only_loss(model)
    together = answer_loss.EncodedExamples(rows, tokenizer, 512)
    apart = answer_loss.EncodedExamples(rows, tokenizer, 512, batch_of="questions")
    assert len(apart) == sum(len(row.questions) for row in rows) > len(together) == len(rows)
    assert apart.answer_tokens == together.answer_tokens and sum(apart.lengths) > sum(together.lengths)
    losses = [model(**answer_loss.AnswerCollator(0)(encoded.items)).loss.item() for encoded in (together, apart)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
