"""Threads: which calls of models belong to one conversation, and why each of them cost what it did.

prompt.py reads a request: the parts of its prompt in the order in which upstreams cache them. said.py reads an answer:
what of it a later request brings back. difference.py finds where two prompts first differ. cache.py counts what an
upstream's cache held. finding.py finds the thread of a call, causes.py the reason of its cost; registry.py remembers.
"""
