"""By what a search can sort; a file of its own, so that a command's help needs no database package."""

ORDERS = ("relevance", "newest", "name", "downloads", "rating", "size", "loss", "perplexity", "bits_per_byte")
"""Best first: relevance and newest first, names from a on, the most downloaded, the best rated; the smallest of the rest, what was not measured last."""
