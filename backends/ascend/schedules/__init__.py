"""Schedules for Ascend: candidates by class of kernel, best guess first."""
