"""Many texts at once: memory of keys and values, decoding, beams."""
