"""Loading models, the chat format, and a tiny model for tests."""
