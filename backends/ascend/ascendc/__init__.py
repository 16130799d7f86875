"""Ascend C from the placed form."""
