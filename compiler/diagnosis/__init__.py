"""Where numbers go wrong: layer by layer beside the float model, or the first tensor, pass and kernel that diverge."""
