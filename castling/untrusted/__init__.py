"""One door for what comes from outside: YAML, tensors, checkpoints and images, read as data.

Nothing that is read is executed, and everything is bounded in size, depth and memory.
`castling.config.limits` bounds the fields of configs; `reports.study` reads a run's study.
"""
