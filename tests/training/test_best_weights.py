"""A training saves the weights of its best validation, wherever it ends or continues."""

import json
import shutil
import signal

import finetune_gemma_from_csv as finetune
import pytest
import torch
from linklab.models import load
from linklab.training import answer_loss
from test_answer_loss import masked_full_logit_loss
from training_runs import same, stopping_before, validation_losses, weights_of, words


def test_the_validation_loss_is_the_mean_over_answer_tokens(rule_table, tmp_path):
    """`insect` has more tokens than `fish`, so the mean of three batch means would differ."""
    from linklab.tasks import examples
    from linklab.tasks.task import make_task

    out = tmp_path / "out"
    command = words(rule_table, out, "--mode", "full", "--validation-rows", "20", steps=2, save=1)
    assert finetune.main(command) == 0
    tokenizer = load.load_tokenizer(str(out / "model"))
    rows = examples.read_examples(rule_table, make_task(rule_table, ["kind"]), "validation", 20)
    assert len({row.answer for row in rows}) > 1
    logged = validation_losses(out)
    for step in ("1", "2"):
        model = load.load_model(str(out / "checkpoints" / f"checkpoint-{step}")).eval()
        with torch.inference_mode():
            loss = masked_full_logit_loss(model, answer_loss.EncodedExamples(rows, tokenizer, 512).items)
        assert logged[step] == pytest.approx(loss.item(), abs=1e-5)


@pytest.fixture
def worse_after_step_5(monkeypatch):
    """Make validation losses after step 5 worse than they are, so that the last weights are not the best ones."""
    from linklab.training import training

    plain = training.make_trainer

    def make_trainer(*parts):
        trainer = plain(*parts)
        step = trainer.prediction_step

        def prediction_step(*args, **kwargs):
            loss, *rest = step(*args, **kwargs)
            return loss + 9 * (trainer.state.global_step > 5), *rest

        trainer.prediction_step = prediction_step
        return trainer

    monkeypatch.setattr(training, "make_trainer", make_trainer)


def test_the_weights_saved_are_those_of_the_best_validation_loss(rule_table, tmp_path, worse_after_step_5):
    out = tmp_path / "out"
    assert finetune.main(words(rule_table, out, "--mode", "full", steps=8, save=1)) == 0
    losses = {int(step): loss for step, loss in validation_losses(out).items()}
    best = min(losses, key=losses.get)
    assert best <= 5 and losses[8] > 9
    saved = weights_of(out / "model")
    assert same(saved, weights_of(out / "checkpoints" / f"checkpoint-{best}"))
    assert not same(saved, weights_of(out / "checkpoints" / "checkpoint-8"))
    assert json.loads((out / "metrics.json").read_text())["best_validation_loss"] == pytest.approx(
        losses[best], rel=1e-5
    )


def test_the_best_weights_are_kept_when_no_checkpoint_is_due(rule_table, tmp_path, worse_after_step_5):
    out = tmp_path / "out"
    assert finetune.main([*words(rule_table, out, "--mode", "full", steps=8, save=8), "--eval-steps", "1"]) == 0
    losses = {int(step): loss for step, loss in validation_losses(out).items()}
    best = min(losses, key=losses.get)
    assert best <= 5
    assert same(weights_of(out / "model"), weights_of(out / "checkpoints" / f"checkpoint-{best}"))
    scores = json.loads((out / "metrics.json").read_text())
    assert scores["best_validation_loss"] == pytest.approx(losses[best], rel=1e-5) and scores["best_step"] == best


def test_the_last_weights_are_judged_too(rule_table, tmp_path):
    out = tmp_path / "out"
    assert finetune.main(words(rule_table, out, steps=5, save=2)) == 0
    assert list(validation_losses(out)) == ["2", "4", "5"]
    assert json.loads((out / "metrics.json").read_text())["best_step"] == 5  # losses fall


def test_the_best_weights_may_be_chosen_by_accuracy(rule_table, tmp_path, monkeypatch, capfd):
    """Losses fall to the end, accuracy is made best in the middle; patience uses accuracy too."""
    from linklab.training import validation_scores

    rights = iter([1, 5, 5, 4])
    monkeypatch.setattr(validation_scores, "count_right", lambda logits, labels, judged: torch.tensor(next(rights)))
    command = words(
        rule_table, tmp_path / "out", "--mode", "full", "--best-by", "accuracy", "--patience", "2", steps=12
    )
    assert finetune.main(command) == 0
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (scores["best_step"], scores["validation_accuracy"], scores["steps"]) == (4, 5 / 8, 8)
    losses = validation_losses(tmp_path / "out")
    assert scores["best_validation_loss"] == pytest.approx(losses["4"], rel=1e-5) and losses["4"] > losses["8"]
    weights = weights_of(tmp_path / "out" / "model")
    assert same(weights, weights_of(tmp_path / "out" / "checkpoints" / "checkpoint-4"))
    assert "accuracy 62.5 %" in capfd.readouterr().err


@pytest.mark.parametrize(("more", "said"), [
    (["--target-field", "expected_throughput_mbps"], "'expected_throughput_mbps' is a number"),
    (["--ask", "choices"], "--ask choices asks for numbers"),
])  # fmt: skip
def test_accuracy_cannot_choose_the_weights_if_the_answer_is_a_number(small_links, tmp_path, capfd, more, said):
    command = words(small_links / "links.csv", tmp_path / "out", "--best-by", "accuracy")
    at = command.index("--target-field")
    assert finetune.main([*command[:at], *command[at + 2 :], *more]) == 2
    assert f"--best-by accuracy needs a class as first target; {said}; leave it out" in capfd.readouterr().err


@pytest.mark.parametrize("best_is_gone", [False, True])
def test_the_best_checkpoint_is_found_in_a_moved_folder_and_reported_if_missing(
    rule_table, tmp_path, worse_after_step_5, monkeypatch, capfd, best_is_gone
):
    from linklab.training import training

    command = words(rule_table, tmp_path / "before", "--mode", "full", steps=8, save=1)
    with stopping_before(training, monkeypatch, 7):
        assert finetune.main(command) == 128 + signal.SIGTERM
    losses = {int(step): loss for step, loss in validation_losses(tmp_path / "before").items()}
    best = min(losses, key=losses.get)
    assert best <= 5
    out = (tmp_path / "before").rename(tmp_path / "after")
    if best_is_gone:
        shutil.rmtree(out / "checkpoints" / f"checkpoint-{best}")
    command[command.index(str(tmp_path / "before"))] = str(out)
    assert finetune.main([*command, "--resume", "auto"]) == 0
    told = "the best checkpoint so far is missing" in capfd.readouterr().err
    assert told == best_is_gone
    kept = 8 if best_is_gone else best  # losses fall, so the last checkpoint is the best of the remaining ones
    assert same(weights_of(out / "model"), weights_of(out / "checkpoints" / f"checkpoint-{kept}"))
