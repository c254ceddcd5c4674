"""Literal, slow definitions, one file per operator: the oracles of the fast forms."""
