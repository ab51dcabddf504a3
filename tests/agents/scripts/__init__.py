"""Small agents of people who write their own: each runs by itself, with its library's Python, not with relay's.

Its arguments are the user's messages, one a turn, in one conversation.
"""
