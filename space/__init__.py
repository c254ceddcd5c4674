"""Search spaces and their costs: dimensions, points, presets, closed forms, budgets."""
