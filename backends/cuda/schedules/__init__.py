"""First schedules of each class of kernel from target data. Heuristics, not tuned."""
