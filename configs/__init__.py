"""Configs: each file's docstring is its command and what to expect of it."""
