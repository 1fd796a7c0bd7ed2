"""A model's answers: exact probabilities of choices, distributions of numbers, free text."""
