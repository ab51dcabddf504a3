"""Bodies of OpenAI's API as a person reads them: bytes and what is known about them in, text out.

`reader.read` is the way in. What is unreadable raises `body.UnreadableBody`, and nothing else does: whoever calls falls
back to another view.
"""
