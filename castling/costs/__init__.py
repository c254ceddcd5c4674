"""The cost of a model: closed forms that add up, and counts on the model itself."""
