"""Tokenizers: byte-level BPE in Python and its twin inside the graph."""
