"""Everything that learns or scores: PyTorch modules, trainers and decoders. Knows tensors and arrays, never tables."""
