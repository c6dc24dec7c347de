"""Train a head from tensors: optimisers, loop, checkpoints."""
