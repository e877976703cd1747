"""FlagAI's older tokenizer class of GLM-large-ch."""
