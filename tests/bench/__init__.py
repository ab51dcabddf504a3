"""The benchmarks: `./run.sh bench`. What each file is for stands in README's "Speed"."""
