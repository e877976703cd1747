"""Filling blanks and writing targets with a GLM."""
