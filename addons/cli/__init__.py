"""The commands of run.sh: python -m addons.cli COMMAND.

__main__.py has the commands, but for record and replay, which are in fixtures.py, and those of keys.py, usage.py and
export.py; kept.py finds what keys and usage read. arguments.py reads the command line, launch.py makes a
mitmdump or mitmweb of it, introduction.py has what is said at its start, faults.py what goes wrong on purpose, and
children.py the processes that demo and replay start and end. fake_openai/ is the demo's upstream.

Not here: what relay.yaml means (addons/config), whether an address can be had (addons/addresses.py), and all that runs
while relay serves: by then a command has become mitmproxy's process, or waits for one.
"""
