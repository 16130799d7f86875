"""Quantizing a model as it was asked for: which method, how well, what every layer got, and the search for a mixture."""
