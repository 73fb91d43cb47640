"""Weights: the catalogue of every network, the one door to its file, and how the file was made."""
