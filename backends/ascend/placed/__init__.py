"""The placed form of a kernel: its nodes, fractal layouts, text, and what its statements touch."""
