"""Exports: what was recorded of exchanges, as texts that leave relay.

record.py is one exchange, in values; talk.py reads who said what in a request, answers.py in an answer, and threads.py
sums up the calls of a conversation. From these jsonl.py writes lines, otlp.py spans, and page.py the page of a thread,
with markup.py, which lets no text through unescaped, chart.py and style.py.

What comes in here holds no key any more.
"""
