"""Trains language models to improve themselves; README.md says how."""

__version__ = "0.1.0"
