"""A look-alike of OpenAI's API: the upstream of `./run.sh demo`, and of relay's own tests.

server.py takes connections and keeps what was asked, wire.py reads and writes HTTP as it comes, api.py and chat.py say
what the endpoints say, form.py reads uploads, websocket.py is /v1/realtime; answer.py and record.py let a test bend an
answer and look at a request. `python -m addons.cli.fake_openai.server --port 9000` starts one by hand.
"""
