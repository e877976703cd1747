"""Corpora into training batches: reading, tokenised shards, span samplers, packed batches."""
