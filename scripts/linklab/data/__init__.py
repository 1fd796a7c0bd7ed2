"""Columns, prompts, splits, CSV and JSONL: what passes between the scripts."""
