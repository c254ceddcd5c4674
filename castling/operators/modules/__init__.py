"""The torch modules of the operators, imported when the first model with them is built."""
