"""The second door to Ascend NPUs: the graph itself, for CANN's own compiler instead of our kernels.

``onnx-atc`` is an ONNX file whose every operator, attribute and element type ATC's parser takes, with the command line
for the chosen chip; ``ge-air`` is the graph in GE's own operators, each held against its signature. Nothing of this was
run through ATC or on a device: what the parser takes and what GE registers are tables with their sources.
"""
