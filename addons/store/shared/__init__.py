"""Shared: the store of several relays, in a Redis (`store.kind: redis`).

link.py is the way there: one connection, many calls at a time, each of which may be repeated. functions.lua is what
Redis does in one step (functions.py loads it), names.py says what things are called there. sessions.py keeps sessions
and their leases, ledger.py admits and settles, mirror.py copies what is settled into a file of this machine, where
reports read it, and keys.py has the keys that were handed out. epochs.py knows whether Redis has lost what was spent,
takeover.py brings over what a relay had in a folder of its own. opened.py opens all of it, and kept.py is what stays
when the code is loaded anew.

The rest of relay sees no difference: sessions.py is a Store, ledger.py a Ledger.
"""
