"""Benchmarks: this package against its peers, on the user's own machine: both sides in one run, each in a process of its own."""
