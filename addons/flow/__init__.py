"""What the rooms above use on a flow, and none of them owns.

answers.py makes answers of relay's own and adds the headers that every answer carries, upstream_errors.py says what an
upstream refused or why it failed, advice.py puts into the log what can be done about that, upstream.py points a request
at an upstream, subrequest.py asks one by itself, request_body.py and decoding.py read bodies, held_bodies.py counts
those that are read whole, model_mapping.py puts the names that an upstream knows into one, capture.py keeps a copy of
one that passes, turns.py does long work in slices, display_path.py keeps the client's path in the record,
model_calls.py reads a record as a call of a model, exported.py as what an export tells of it.
credentials.py finds the keys in a head and puts others in their place, leaving.py ends what is done for a client that
has left.

Not here: what one room alone needs, which stands in that room; what needs no flow, which is core's; an addon with a
rule of its own, but for DisplayPath: replays and commands read what it has kept.
"""
