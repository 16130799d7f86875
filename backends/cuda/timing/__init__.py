"""Kernels timed on a machine with a GPU. This folder travels inside a bundle: it needs the standard library and NumPy
alone, and imports nothing else of Tilewright."""
