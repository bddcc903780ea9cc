"""Decoding and scoring inside the graph, over the model's one forward pass."""
