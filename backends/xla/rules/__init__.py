"""How each ONNX operator is said in StableHLO, one file a family."""
