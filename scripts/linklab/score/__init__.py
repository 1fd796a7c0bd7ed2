"""How good is it: predictions in, metrics with intervals, paired comparisons, plots and a report out."""
