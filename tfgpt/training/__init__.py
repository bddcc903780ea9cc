"""Optimizer, schedule, callbacks and checkpoints around `model.fit`."""
