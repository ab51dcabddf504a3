"""What relay knows, without the world: values in, values out. No mitmproxy, no files, no clock, no logging, no loop.

So all of it is tested without a proxy. reading/ reads bodies as a person does; secret*.py find what must not be shown;
sse.py, stream_end.py, ending.py and retelling.py read event streams; upstream_error.py tells what a refusal means.
"""
