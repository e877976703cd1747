"""FlagAI's older tokenizer class of GLM-10b-en."""
