"""A model that is played: it answers agents in four dialects, as a script says, with a cache's usage.

- server.py: HTTP; plan.py: what is said to whom; usage.py: tokens, and which of them the cache had.
- chat.py, responses.py, messages.py, gemini.py: each dialect, read into `Asked` and written from `Said`; socket.py:
  Responses over a websocket.
"""
