"""Flags, cross-core flags and barriers: found from dependences, left out where others imply them, given event ids."""
