"""Learning curves and hyperparameter sweeps."""
