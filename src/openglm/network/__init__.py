"""The network: configuration, model, attention, caches, quantization."""
