"""What trains the trials of a search; the only folder that knows Ray."""

from castling.surroundings import complete_environment


complete_environment()  # before Ray is imported, which needs a home
