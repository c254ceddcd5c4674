"""What may be searched and what it costs: dimensions, points, presets, cost, budgets."""
