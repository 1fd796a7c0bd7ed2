"""What the tests of answers ask: an untrained model with opinions."""

import pytest
import torch
from linklab.inference.choice_scorer import ChoiceScorer
from linklab.models import tiny


@pytest.fixture(scope="module")
def scorer():
    tokenizer = tiny.build_tokenizer()
    model = tiny.build_model(tokenizer).eval()
    with torch.no_grad():  # as it is built it finds every token nearly as likely as any other
        model.lm_head.weight.mul_(8)
    return ChoiceScorer(model, tokenizer)
