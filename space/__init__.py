"""What may be searched and what it costs: dimensions, points, presets, closed-form cost, budgets."""
