"""The benchmarks: `./run.sh bench`. What each file is for stands in docs/performance.md."""
