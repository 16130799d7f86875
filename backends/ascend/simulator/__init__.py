"""A model of the cores that runs placed kernels and refuses what hardware could get wrong."""
