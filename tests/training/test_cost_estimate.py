"""training/cost_estimate.py: which step a dry run measures."""

from linklab.training import cost_estimate


def test_the_plan_measures_memory_on_the_step_with_the_heaviest_batch():
    """Two batches of two rows per step; the last step may be short. A GPU pads a batch to its longest row."""
    lengths = [5, 4, 4, 4, 9, 1, 10, 0, 3, 3]
    order = [0, 1, 2, 3, 6, 7, 4, 0, 8, 9]
    assert cost_estimate.heaviest_step(order, lengths, 2, 4, padded=False) == [6, 7, 4, 0]
    assert cost_estimate.heaviest_step([0, 1, 2, 3, 8, 9], lengths, 2, 4, padded=False) == [0, 1, 2, 3]
    assert cost_estimate.heaviest_step([8, 9, 6], lengths, 2, 2, padded=False) == [6]
    lengths[2] = lengths[3] = 8  # 16 tokens beside 10: with padding 20
    assert cost_estimate.heaviest_step([*order[:4], 6, 7, 8, 9], lengths, 2, 4, padded=False) == [0, 1, 2, 3]
    assert cost_estimate.heaviest_step([*order[:4], 6, 7, 8, 9], lengths, 2, 4, padded=True) == [6, 7, 8, 9]
