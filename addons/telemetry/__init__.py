"""Telemetry: what relay tells those who watch over it: numbers, lines, spans.

observing.py sees every exchange begin and end, and tells of it in one value (core/observed.py) to those who want to
know: counting.py, which adds it to the numbers that core/metrics.py lists, printing.py, which makes a line of it for
`log: json`, and tracing.py, whose spans collector.py sends.

sampling.py looks at what is under way when somebody asks, loop_lag.py how late the loop is, and timed_store.py how long
the store takes. sharing.py brings the numbers of all processes together, exposition.py writes them as Prometheus reads
them, scraping.py answers `/metrics` to those who may read it, and listener.py does so at an address of its own.
service.py has all of it in one process.

Nobody here is in the way: what fails costs its own value, and neither a key nor anything that strangers can write
without bound is in any of it.
"""
