"""Studies of time and quality; each writes its own file in `benchmarks/results`."""
