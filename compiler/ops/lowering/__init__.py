"""One file a family: what an element of each operator's output is."""
