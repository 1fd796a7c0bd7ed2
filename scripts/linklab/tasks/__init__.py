"""From rows to conversations: the task, templates, examples, splits, JSONL."""
