"""Cloze: tasks as questions with a blank, and how probable the model finds each answer."""
