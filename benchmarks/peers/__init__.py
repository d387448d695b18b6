"""Workers of the side-by-side benchmarks, one a file; see protocol.py."""
