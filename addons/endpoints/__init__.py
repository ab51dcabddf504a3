"""relay's own paths, which no upstream sees as they are.

chat.py answers /chat, chat_answer.py reads what the upstream says to it, chat_sessions.py shows and forgets sessions;
balance.py answers /pro/balance, key_pages.py what apps ask about a relay key, health.py /healthz and /readyz, page.py /
with the files in static/. starting.py refuses all but health until a shared store is reached.
"""
