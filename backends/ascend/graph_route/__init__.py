"""The second door to Ascend NPUs: the graph itself, for CANN's own compiler instead of our kernels.

``onnx-atc`` is an ONNX file whose every operator, attribute and element type ATC's parser takes, with the command line
for the chosen chip. Nothing here was run through ATC or on a device; what its parser takes is a table with its source.
"""
