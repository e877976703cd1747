"""One training loop, its recipes, optimizers, states on disk and evaluation."""
