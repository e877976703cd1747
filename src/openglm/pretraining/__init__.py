"""A recipe and a corpus in, a model folder out."""
