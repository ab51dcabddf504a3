"""Traffic as a fixture: what a recording holds, and answering from it.

recording.py marks what is recorded, flow_file.py reads and writes the file, server.py is the upstream that answers from
it. What makes two requests the same is addons/core/matching.py.
"""
