"""The baselines as they are."""

import pytest


@pytest.fixture(scope="module")
def few_trees():
    """All trees."""
