"""What trains the trials of a search; the only folder that knows Ray."""
