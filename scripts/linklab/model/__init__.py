"""Loading, training and asking Gemma 3: the only room that needs torch, which it imports inside functions."""
