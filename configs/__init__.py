"""Configs: each docstring has the command and the expected result."""
