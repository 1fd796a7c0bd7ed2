"""What a model answers: exact probabilities of choices, distributions of numbers."""
