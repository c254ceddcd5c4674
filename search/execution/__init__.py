"""What trains the trials; the only folder that knows Ray."""
