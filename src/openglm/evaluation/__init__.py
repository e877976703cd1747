"""How good a model is: generation metrics, language modelling, infilling, and named benchmarks."""
