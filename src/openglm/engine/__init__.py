"""Many texts at once: the model runner, decoding, beams."""
