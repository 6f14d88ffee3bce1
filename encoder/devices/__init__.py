"""Networks and code comparisons on a CPU or a CUDA device."""
