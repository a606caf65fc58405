"""Bundles in the forms of other tools: archives, container engines, the model runner."""
