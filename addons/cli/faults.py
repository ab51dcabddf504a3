"""`--faults` of the demo and of replay: what goes wrong on purpose."""

import random
from argparse import Namespace
from collections.abc import Sequence

from addons.addresses import Refusal
from addons.core.faults import HEADER, KINDS, Faults, shares


def faults_of(own: Namespace) -> Faults | None:
    """What the command line asks for. Raises Refusal."""
    if own.faults is None:
        return None
    try:
        return Faults(shares(own.faults), random.Random(own.seed).random)
    except ValueError as error:
        raise Refusal(f"--faults {own.faults[:40]}: {error}") from None


def as_options(own: Namespace) -> Sequence[str]:
    """The same for the demo's upstream."""
    return ["--faults", own.faults, "--seed", str(own.seed)]


def told_faults(own: Namespace) -> Sequence[tuple[str, str]]:
    """What is said of it at the start."""
    if own.faults is None:
        return []
    return [("goes wrong", f"{own.faults} of what is POSTed, or as {HEADER} asks ({', '.join(KINDS)}, none)")]
