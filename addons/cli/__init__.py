"""The commands of run.sh: python -m addons.cli COMMAND.

__main__.py has the commands, children.py the processes that demo and replay start and end.
"""
