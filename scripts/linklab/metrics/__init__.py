"""Metrics with intervals, paired comparisons, predictions and their files."""
