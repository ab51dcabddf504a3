"""Real agents, recorded through relay before a model that is played: their programs, the model, the recordings.

    python -m tests.agents.record            all of them; it takes half an hour, and 2 GB outside of here
    python -m tests.agents.record codex      those whose name begins so

- programs/: how each agent is installed and told where relay is; runs.py: what it is asked.
- model/: what answers in the model's place, in four dialects.
- recordings/: one file a run, read by recording.py; labels.json says what is true of some of their requests.
"""
