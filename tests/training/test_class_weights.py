"""--class-weights balanced: the loss is that of every row times scikit-learn's weight of its class."""

import csv
import json

import finetune_gemma_from_csv as finetune
import numpy as np
import pytest
from linklab.models import tiny
from linklab.tasks import examples as example_files
from linklab.tasks.task import make_task
from linklab.training import answer_loss, class_weights, head_loss, validation_scores
from sklearn.utils.class_weight import compute_class_weight
from test_answer_loss import make_model, masked_full_logit_loss
from training_runs import assert_same_gradients

KINDS = ["insect"] * 19 + ["fish"] * 4 + ["mammal"]  # answers of different lengths


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("uneven") / "uneven.csv"
    lines = [f"animal {i},{KINDS[i % len(KINDS)]}" for i in range(480)]
    path.write_text("\n".join(["animal,kind", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def rows(table):
    task = make_task(table, ["kind"])
    return task, example_files.read_examples(table, task, "train"), example_files.read_examples(table, task, "test")


def sklearn_weights(examples):
    answers = [row.target["kind"] for row in examples]
    names = np.unique(answers)
    return dict(zip(names, compute_class_weight("balanced", classes=names, y=answers), strict=True))


def encode(examples):
    return answer_loss.EncodedExamples(examples, tiny.build_tokenizer(), 512)


def test_the_weights_are_those_of_scikit_learn_in_training_and_in_validation(rows, capsys):
    task, train, test = rows
    encoded, judged = encode(train), encode(test)
    expected = sklearn_weights(train)
    assert len(expected) == 3 and max(expected.values()) > 5 * min(expected.values())
    assert class_weights.weigh(encoded, judged, train, test, task) == pytest.approx(expected)
    for found, examples in ((encoded, train), (judged, test)):
        weights = [expected[row.target["kind"]] for row in examples]
        assert [item["weight"] for item in found.items] == pytest.approx(weights)
    assert "class weights: mammal" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_the_weighted_loss_and_its_gradient_are_those_of_the_rows_times_their_weights(mode, rows):
    """LoRA takes the fused head, full fine-tuning the plain one."""
    task, train, test = rows
    encoded = encode(train)
    class_weights.weigh(encoded, encode(test), train, test, task)
    names = [row.target["kind"] for row in train]
    items = [encoded[names.index(kind)] for kind in ("insect", "fish", "mammal")]
    untouched, ours = make_model(tiny.build_tokenizer(), mode), make_model(tiny.build_tokenizer(), mode)
    answer_loss.use_answer_only_loss(ours.get_base_model() if mode == "lora" else ours)
    batch = answer_loss.AnswerCollator(0)(items)
    assert head_loss.can_fuse(ours.get_base_model() if mode == "lora" else ours, batch["input_ids"]) == (mode == "lora")
    lengths = [len(item["input_ids"]) - item["answers"][0][0] for item in items]
    weights = sklearn_weights(train)
    expected = sum(
        weights[kind] * n * masked_full_logit_loss(untouched, [item])
        for kind, n, item in zip(("insect", "fish", "mammal"), lengths, items, strict=True)
    ) / sum(lengths)
    loss = ours(**batch).loss
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    unweighted = {name: value for name, value in batch.items() if name != "row_weights"}
    assert abs(ours(**unweighted).loss.item() - loss.item()) > 0.1
    expected.backward()
    loss.backward()
    assert_same_gradients(untouched, ours)


def test_rows_that_fill_up_a_batch_may_stand_beside_rows_with_weights(rows):
    task, train, test = rows
    encoded = encode(train[:3])
    class_weights.weigh(encoded, encode(test), train[:3], test, task)
    batch = answer_loss.AnswerCollator(0)([validation_scores.EvenRows(encoded, 4)[i] for i in range(4)])
    assert batch["row_weights"].tolist() == pytest.approx([item["weight"] for item in encoded.items] + [1.0])


TINY = ["--base-model", "tiny", "--mode", "full", "--report-to", "none"]


def test_a_training_with_the_option_has_the_weighted_loss_and_says_its_weights(table, tmp_path, capsys):
    losses = {}
    for kind in ("none", "balanced"):
        more = ["--target-field", "kind", "--class-weights", kind, "--max-steps", "1", "--learning-rate", "1e-9"]
        words = [*TINY, "--csv", str(table), *more, "--validation-rows", "60", "--out-dir", str(tmp_path / kind)]
        assert finetune.main(words) == 0
        (line,) = csv.DictReader((tmp_path / kind / "trainer_log.csv").open())
        losses[kind] = float(line["validation_loss"])
        settings = json.loads((tmp_path / kind / "metrics.json").read_text())["settings"]
        assert settings["class_weights"] == kind
    assert abs(losses["balanced"] - losses["none"]) > 0.1
    task = make_task(table, ["kind"])
    train, judged = (
        example_files.read_examples(table, task, side, n) for side, n in (("train", None), ("validation", 60))
    )
    model, encoded = tiny.build_model(tiny.build_tokenizer()), encode(judged)
    each = [masked_full_logit_loss(model, [item]).item() for item in encoded.items]
    lengths = [item["answers"][0][1] - item["answers"][0][0] for item in encoded.items]
    weights = [sklearn_weights(train)[row.target["kind"]] for row in judged]
    expected = np.average(np.multiply(weights, each), weights=lengths)
    assert losses["balanced"] == pytest.approx(expected, abs=1e-3)
    assert "class weights: mammal" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "said"), [
    (["--target-field", "expected_throughput_mbps"], "'expected_throughput_mbps' is a number"),
    (["--ask", "choices"], "--ask choices asks for numbers"),
])  # fmt: skip
def test_an_answer_that_is_no_class_is_one_line(more, said, small_links, tmp_path, capsys):
    words = [*TINY, "--csv", str(small_links / "links.csv"), *more, "--class-weights", "balanced"]
    assert finetune.main([*words, "--out-dir", str(tmp_path / "out")]) == 2
    assert f"--class-weights balanced needs a class as first target; {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
