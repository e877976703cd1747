"""Text to training batches: corpora, shards, rows, spans."""
