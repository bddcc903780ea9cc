"""From text to batches: sources, packing, shards. NumPy alone until the shards, which are TensorFlow's."""
