"""Where mitmproxy 12.2.3 is wrong on the wire, or leaves open what relay promises. None of it can be switched off.

Each change says what mitmproxy does by itself, why that hurts, and when it can go; engine/__init__.py has the list.
"""
