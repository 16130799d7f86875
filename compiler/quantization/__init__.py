"""Quantizing a model as it was asked for: by which method, how well, what every layer got; the search for a mixture."""
