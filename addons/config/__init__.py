"""relay.yaml becomes Settings here, or every mistake in it is told at once.

settings.py has its keys and defaults, fields.py the kinds of values; loader.py reads YAML, messages.py and mistakes.py
say what is wrong. reference.py writes the tables of configuration.md and relay.schema.json. mitmproxy_options.py tells
what Settings mean to mitmproxy. Nothing here knows of flows.
"""
