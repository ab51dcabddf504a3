"""What mitmproxy does right, in less time: the same bytes, hooks and order. `engine.fast: false` takes all of it back.

tests/engine plays each change side by side with mitmproxy's own method; engine/__init__.py has the list.
"""
