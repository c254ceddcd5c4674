"""A search's run folder and study: what was tried, and what became of it, kept as it happens."""
