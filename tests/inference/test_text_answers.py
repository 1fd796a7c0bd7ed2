"""Text targets are written, not chosen: the last turn of a conversation, after the true earlier turns."""

import json

import pytest
import torch
from linklab.inference import row_answers
from linklab.inference.choice_scorer import ChoiceScorer
from linklab.metrics import metrics
from linklab.metrics.predictions import Prediction
from linklab.models import tiny
from linklab.tasks import conversations, source
from linklab.training import answer_loss

COLOURS = {"ape": "red", "bee": "blue", "cat": "green"}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A tiny model trained on three conversations: the last question is the same, its answer is in the first turn."""
    path = tmp_path_factory.mktemp("talk") / "talk.jsonl"
    with open(path, "w") as handle:
        for animal, colour in COLOURS.items():
            texts = [f"an {animal}", f"yes, {animal}", "colour?", f"it is\n{colour}"]
            turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
            handle.write(json.dumps({"messages": turns}) + "\n")
    examples = [conversations.parse_line(line) for line in path.read_bytes().splitlines()]
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer()
    model = tiny.build_model(tokenizer)
    answer_loss.use_answer_only_loss(model)
    batch = answer_loss.AnswerCollator(0)(answer_loss.EncodedExamples(examples, tokenizer, 512).items)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(60):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return ChoiceScorer(model, tokenizer), examples, source.open_folder(path)[0]


def test_the_last_turn_is_written_after_the_true_earlier_turns(learnt):
    scorer, examples, task = learnt
    found = row_answers.answer_exactly(scorer, examples, task)
    assert [value["answer"]["reply"] for value in found] == [f"it is\n{colour}" for colour in COLOURS.values()]
    assert all(value["choices"] == {} and value["error"] is None for value in found)
    predictions = {value["id"]: Prediction(**value) for value in found}
    scores = metrics.score(examples, predictions, task, resamples=0)["metrics"]
    assert {name: entry["value"] for name, entry in scores.items()} == {
        "reply/exact_match": 1, "reply/normalised_match": 1, "reply/token_f1": 1, "reply/chrf": pytest.approx(1),
        "reply/invalid_share": 0,
    }  # fmt: skip


def test_a_written_answer_ends_where_max_new_tokens_says(learnt):
    scorer, examples, task = learnt
    found = row_answers.answer_exactly(scorer, examples, task, max_new_tokens=5)
    assert {value["answer"]["reply"] for value in found} == {"it is"}
