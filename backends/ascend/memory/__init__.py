"""Addresses in the memories of a core: when a buffer holds something, and which buffers may share bytes."""
