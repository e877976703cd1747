"""Tokenizers; FlagAI's data loaders are not part of this."""
