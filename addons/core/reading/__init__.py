"""Bodies of OpenAI's, Anthropic's and Gemini's APIs as a person reads them: bytes and what is known about them in, text
out. One module a dialect; page.py holds the text, body.py bounds what is read, turns.py and tools.py are for all.

`reader.read` is the way in. What is unreadable raises `body.UnreadableBody`, and nothing else does: whoever calls falls
back to another view.
"""
