"""What a model costs: closed forms that add up, and counts on the model itself."""
