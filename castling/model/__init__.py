"""The vision transformer whose every layer is a choice, and the switch that castles it."""
