"""Baseline tests use all trees of the baselines."""

import pytest


@pytest.fixture(scope="module")
def few_trees():
    """All trees."""
