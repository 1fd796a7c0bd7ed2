"""The model for the tests of answers: untrained, but with clear preferences among tokens."""

import pytest
import torch
from linklab.inference.choice_scorer import ChoiceScorer
from linklab.models import tiny


@pytest.fixture(scope="module")
def scorer():
    tokenizer = tiny.build_tokenizer()
    model = tiny.build_model(tokenizer).eval()
    with torch.no_grad():  # a new model gives nearly the same probability to every token
        model.lm_head.weight.mul_(8)
    return ChoiceScorer(model, tokenizer)
