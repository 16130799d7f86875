"""The command line. One file per command; the commands of running alone need no compiler."""
