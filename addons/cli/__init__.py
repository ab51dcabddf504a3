"""The commands of run.sh: python -m addons.cli COMMAND.

__main__.py has the commands, but for record and replay, which are in fixtures.py. arguments.py reads the command line,
launch.py makes a mitmdump or mitmweb of it, introduction.py has what is said at its start, and children.py the
processes that demo and replay start and end. fake_openai/ is the demo's upstream.
"""
