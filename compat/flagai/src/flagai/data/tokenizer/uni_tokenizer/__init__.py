"""FlagAI's newer tokenizer class."""
