"""The vocabularies, one module per kind; what the rest of openglm uses is in `openglm.tokenizer`."""
