"""One door for what comes from outside: YAML, tensors, checkpoints and images, read as data.

Nothing that is read is executed, and all of it is bounded in size, depth and memory. What a config
may hold is bounded by `castling.config.limits`; a run's study is read by `reports.study`.
"""
