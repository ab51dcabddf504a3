"""The pool of connections to upstreams, shared by all clients of a process.

places.py says which connections may stand for one another, dialing.py makes one (names.py, proxies.py, tls.py), and
upstream_connection.py is one, with what kernel.py knows of it. idle.py keeps those that rest, lending.py is where
mitmproxy comes by them and gives them back, and repeats.py asks once more what met a connection that was closed. Which
upstream a request goes to, and with which key, is decided elsewhere (proxy/routing.py, meter/).
"""
