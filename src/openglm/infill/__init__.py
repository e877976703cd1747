"""Filling blanks: decoding over a key/value cache, and `Infiller`, what users hold in hand."""
