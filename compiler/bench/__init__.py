"""Measuring an artifact against its peers and against the machine it runs on."""
