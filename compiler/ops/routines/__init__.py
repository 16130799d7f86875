"""Programs: operators that need routines, one file a family."""
