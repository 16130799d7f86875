"""Ascend NPUs: kernels in placed form, their synchronisation, and a checker that runs them.

Here now: target data, schedules for contractions, scans and row-wise kernels, placement on the split cores of 910B
(vector kernels on 310P), flags from dependences, and a functional model of the core that refuses what hardware could
get wrong. Not here: Ascend C text, cycles, a backend that the command line offers. Nothing has run on a device.
"""
