"""Fixtures for the tests of the loss and its parts."""

import pytest
from linklab.models import tiny
from linklab.tasks.examples import read_examples
from linklab.tasks.task import make_task


@pytest.fixture(scope="session")
def tokenizer():
    return tiny.build_tokenizer()  # one token per byte


@pytest.fixture(scope="session")
def read_links(small_links):
    """Reads the first `n` training rows of the small links."""

    def read(n, ask="row"):
        return read_examples(small_links / "links.csv", make_task(small_links / "links.csv", ask=ask), "train", n)

    return read
