"""Notebooks as text: find what stops viewers from showing them, and fix it without touching any other byte."""
