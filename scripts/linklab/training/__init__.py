"""Fine-tuning: the answer-only loss, checkpoints, cost estimate."""
