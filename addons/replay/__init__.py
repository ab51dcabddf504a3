"""Traffic as a fixture: what a recording holds, and answering from it.

recording.py marks what is recorded, flow_file.py reads a file that was saved, server.py is the upstream that answers
from it.

Not here: what makes two requests the same (addons/core/matching.py), the copies that a recording is made of
(addons/flow/capture.py), the cleaning of its keys (addons/inspection/redaction.py), and the commands record and replay
(addons/cli/fixtures.py).
"""
