"""What a person sees of relay's traffic, in mitmweb, in a terminal and in saved files.

redaction.py hides secrets, flow_summary.py says in a line what an exchange was, retention.py and sockets.py bound what
is kept, contentviews.py show bodies, mitmweb_style.py changes the page, commands.py are what can be typed there.
"""
