"""Money: what an exchange used, what that costs, and who may go on.

prices.py finds the rates of a model, from genai-prices and relay.yaml. keyring.py knows the keys that relay hands out.
gate.py admits their requests against a budget and rewrites them for upstream, hiding.py keeps relay's own
key out of what comes back. metering.py has the hooks: under_way.py hears what an answer
used, settling.py says what that comes to, later.py what work in the background has used, once it is asked about.
reports.py sums up, in the threads of runs.py. What is spent and held is kept by addons/store/ledger.py; how it is
reckoned stands in addons/core.
"""
