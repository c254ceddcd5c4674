"""The torch modules of a block, imported when the first model is built."""
