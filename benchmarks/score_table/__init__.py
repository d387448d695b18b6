"""SCoRe against its baselines and without its parts, over many seeds."""
