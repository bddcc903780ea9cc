"""Figures of a model on held-out text, beside those of a plain baseline."""
