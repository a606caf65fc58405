"""Readers of executable files: what a dynamic loader would read of them, and no more."""
