"""A task and a model's name -> network and tokenizer."""
