"""What relay knows, without the world: values in, values out. No mitmproxy, no files, no clock, no logging, no loop.

So all of it is tested without a proxy. What needs a flow belongs into addons/flow or the addon's own room, what is kept
into addons/store. Its groups:

- chat and sessions: chat.py, lenient.py, sessions.py, completion.py, retelling.py, envelope.py
- event streams: sse.py, stream_end.py, ending.py, usage_chunk.py
- what usage costs: answer_usage.py, json_member.py, metered.py, generations.py, rates.py, claims.py, form_fields.py,
  accounts.py, relay_keys.py
- balances and money: balances.py, money.py
- names of models: model_mapping.py
- what went wrong: upstream_error.py, failures.py, unbilled.py
- where a request goes up: candidates.py, conversations.py
- paths, urls and headers: paths.py, urls.py, redis_address.py, headers.py
- whose a connection is, and what an address has asked for: proxy_protocol.py, client_address.py, per_address.py,
  minute.py
- secrets: key_mask.py hides relay's own key from callers; in records secrets.py finds keys by their looks, secret_*.py
  by their places, account_ids.py those of accounts, known_secrets.py wherever else they stand
- what is told of exchanges: metrics.py, observed.py, log_line.py, spans.py, span_content.py
- which calls belong together, and why they cost what they did: threads/; exports: export/
- reading for people: reading/, summary.py, glance.py, printable.py
- matching of recordings: matching.py; faults on purpose: faults.py
- JSON and other tools: bounded_json.py, top_level.py, slices.py, frozen.py, units.py
"""
