"""openglm in other libraries' words, one room per library; each is imported only by its own name."""
