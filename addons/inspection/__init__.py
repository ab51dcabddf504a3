"""What a person sees of relay's traffic, in mitmweb, in a terminal and in saved files.

redaction.py hides secrets, flow_summary.py says in a line what an exchange was, finishing.py has both done behind it
where only a list shows it, retention.py and sockets.py bound what is kept, contentviews.py shows bodies and
bounded_views.py keeps mitmproxy's own views from reading without end, mitmweb_style.py changes the page,
thread_page.py adds one for each thread, commands.py has what can be typed there. ending.py notes when exchanges end,
threads.py which conversation a call belongs to and why it cost what it did, in the order that call_queue.py finds, and
thread_commands.py tells of that. exporting.py makes files of what was recorded; placing.py finds the threads of
records that are read from one.

Not here: whatever changes what a client is sent. How bodies are read for people and where secrets stand in them is in
addons/core, since it needs no flow.
"""
