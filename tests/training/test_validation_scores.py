"""Validation accuracy from the logits of the loss equals that of greedy writing."""

import dataclasses

import pytest
import torch
from linklab.models import load, tiny
from linklab.tasks import examples as example_files
from linklab.tasks.task import make_task
from linklab.training import answer_loss, validation_scores


def test_right_rows_are_those_the_model_would_write(taught_rule):
    """Against generate(): the model knows the rule, and every third row asks for another answer."""
    tokenizer = load.load_tokenizer(str(taught_rule["model"]))
    model = load.load_model(str(taught_rule["model"])).eval()
    task = make_task(taught_rule["table"], ["kind"])
    rows = example_files.read_examples(taught_rule["table"], task, "test", 12)
    other = {"insect": "insects", "fish": "insect", "mammal": "mam"}  # longer, another, cut short
    rows = [
        dataclasses.replace(row, answer=other[row.answer], questions=()) if i % 3 == 0 else row
        for i, row in enumerate(rows)
    ]
    encoded = answer_loss.EncodedExamples(rows, tokenizer, 512)
    assert validation_scores.mark_judged(encoded, rows, task, tokenizer)
    n_written = 0
    for item, row in zip(encoded.items, rows, strict=True):
        ids = torch.tensor([item["input_ids"][: item["answers"][0][0]]])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        n_written += tokenizer.decode(made[0, ids.shape[1] :]).startswith(f"{row.answer}<end_of_turn>")
    answer_loss.use_answer_only_loss(model)
    batch = validation_scores.HeldOutCollator(tokenizer.pad_token_id)(encoded.items)
    judged = batch.pop("judged")
    with torch.inference_mode():
        logits = model(**batch).logits
    assert 0 < n_written < len(rows)
    assert validation_scores.count_right(logits, batch["labels"], judged) == n_written


def test_only_the_classes_an_answer_begins_with_are_judged(tokenizer, small_links):
    table = small_links / "links.csv"
    both = make_task(table, ask="row")
    rows = example_files.read_examples(table, both, "train", 3)
    encoded = answer_loss.EncodedExamples(rows, tokenizer, 512)
    assert validation_scores.mark_judged(encoded, rows, both, tokenizer)
    assert [item["judged"] for item in encoded.items] == [len("5775 ")] * 3  # with the space: 57751 is another answer
    numbers = make_task(table, ["expected_throughput_mbps"])
    rows = example_files.read_examples(table, numbers, "train", 3)
    assert not validation_scores.mark_judged(
        answer_loss.EncodedExamples(rows, tokenizer, 512), rows, numbers, tokenizer
    )


@pytest.mark.parametrize("judged, expected", [([3, 2], 1), ([2, 2], 2), ([2, 0], 1), ([0, 0], 0)])
def test_a_row_is_right_when_all_its_judged_tokens_are(judged, expected):
    x = answer_loss.IGNORED
    labels = torch.tensor([[x, x, 1, 2, 3], [x, 1, 2, x, x]])
    best = torch.tensor([1, 2, 0, 1, 2])  # the third token of the first row is wrong
    logits = torch.nn.functional.one_hot(best, 5).float()
    assert validation_scores.count_right(logits, labels, torch.tensor(judged)) == expected


def test_rows_that_fill_up_a_batch_do_not_count(tokenizer, small_links):
    task = make_task(small_links / "links.csv", ask="row")
    rows = example_files.read_examples(small_links / "links.csv", task, "train", 3)
    encoded = answer_loss.EncodedExamples(rows, tokenizer, 512)
    validation_scores.mark_judged(encoded, rows, task, tokenizer)
    even = validation_scores.EvenRows(encoded, 4)
    assert len(even) == 4 and [even[i] for i in range(3)] == encoded.items
    assert len(validation_scores.EvenRows(encoded, 3)) == 3
    model = tiny.build_model(tokenizer).eval()
    answer_loss.use_answer_only_loss(model)
    losses = []
    for items in ([even[i] for i in range(4)], encoded.items, [even[3], even[3]]):
        batch = validation_scores.HeldOutCollator(0)(items)
        judged = batch.pop("judged")
        with torch.inference_mode():
            output = model(**batch, num_items_in_batch=1)
        losses.append(
            (output.loss.item(), validation_scores.count_right(output.logits, batch["labels"], judged).item())
        )
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and losses[2] == (0, 0)
