"""Fine-tuning: loss on the answer only, checkpoints, cost estimate."""
