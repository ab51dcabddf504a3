"""What is kept between requests: sessions, and who may write to one.

shelf.py keeps them in a folder, leases.py and queueing.py let one message of a session in after the other, expiry.py
sweeps out what is over its time. A worker borrows a store of its parent: that is in addons/workers.
"""
