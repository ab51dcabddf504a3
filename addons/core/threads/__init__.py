"""Threads: which calls of models belong to one conversation, and why each of them cost what it did.

call.py is what comes in and goes out. prompt.py reads a request: the parts of its prompt in the order in which
upstreams cache them. said.py reads an answer: what of it a later request brings back. finding.py finds the thread of a
call, by sessions.py and passages.py, too. comparing.py says what has changed since the call before: difference.py
where, cache.py what it cost, causes.py why. registry.py remembers the threads, each of which thread.py holds.
"""
