"""/v1 passing through: where it goes, what is streamed, how long it may take, what is told when it fails.

routing.py points a request at its upstream, model_names.py has its model called as that upstream calls it, streaming.py
passes bodies on, timeouts.py and alarm.py bound time and size, cors.py answers browsers, failures.py tells clients why.
client_addresses.py finds out whose a request is behind proxies, address_limits.py bounds what each address may have.
relay's own paths are in addons/endpoints, and neither room imports the other.
"""
