"""Where mitmproxy 12.2.3 is wrong on the wire, or leaves open what relay promises. None of it can be switched off.

Each file says at each change what mitmproxy does by itself, and why that hurts; engine/__init__.py has the list.
"""
