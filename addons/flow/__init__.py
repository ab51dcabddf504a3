"""What every addon uses on a flow, and none owns.

answers.py makes answers of relay's own, subrequest.py asks an upstream by itself, upstream.py points a request at one,
capture.py keeps a copy of a body, decoding.py reads what is compressed, upstream_errors.py tells what an upstream
refused, turns.py does long work in slices, display_path.py keeps the path of the client in the record.
"""
