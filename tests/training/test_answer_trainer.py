"""The Trainer's private methods that are overridden or used here exist with the expected parameters."""

import inspect

import pytest
import transformers
from linklab.training import cost_estimate
from linklab.training.answer_trainer import AnswerTrainer
from transformers import Trainer

USED = {  # private name -> parameters that we or the Trainer pass
    "_get_train_sampler": ["train_dataset"],
    "_run_epoch": [],
    "_prepare_inputs": ["inputs"],
    "_determine_best_metric": ["metrics", "trial"],
    "_save_checkpoint": ["model", "trial"],
    "_get_num_items_in_batch": ["batch_samples", "device"],
}
ATTRIBUTES = ("_tr_loss", "_globalstep_last_logged")


@pytest.mark.parametrize("name", USED)
def test_each_private_method_exists_with_its_parameters(name):
    found = inspect.signature(getattr(Trainer, name)).parameters
    assert set(USED[name]) <= set(found), f"transformers {transformers.__version__} changed Trainer.{name}"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_private_attribute_is_the_trainers_own(name):
    assert f"self.{name}" in inspect.getsource(transformers.trainer)


def test_the_tables_above_hold_every_private_name_that_is_used():
    source = inspect.getsource(AnswerTrainer) + inspect.getsource(cost_estimate)
    own = {name for name in vars(AnswerTrainer) if not hasattr(Trainer, name)}
    used = {word for word in dir(Trainer) if word.startswith("_") and not word.startswith("__")
            and any(f"{owner}.{word}(" in source for owner in ("self", "super()", "trainer"))}  # fmt: skip
    overridden = {name for name in vars(AnswerTrainer) if name in vars(Trainer) and name.startswith("_")
                  and not name.startswith("__")}  # fmt: skip
    assert (used | overridden) - own == set(USED)
