"""The XLA backend: graph regions to StableHLO, for TPUs and whatever else XLA compiles for."""
