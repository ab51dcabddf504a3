"""Copies a relay's embedded store while relay runs on it: `python backup.py .relay /backup/relay-monday`.

A copy of the files themselves would not do: what was written last stands beside them until SQLite puts it in. SQLite's
own backup takes each of them as it is at one moment, and keeps nobody waiting. The copy is a folder to start from: put
it in the place of store.path while no relay runs there. It holds conversations, and the hashes of keys with the secret
that keys them: it is made for its owner alone, and wants to be kept so.

The databases come last, and the ledger after the conversations: of what happens meanwhile it rather knows too much.
"""

import argparse
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

FILES = ("secret", "keys.json", "forgotten")
DATABASES = ("sessions.db", "ledger.db")


def copy(store: Path, target: Path) -> list[str]:
    """Copy a store into a folder that is not there yet; the names of what was copied.

    Raises OSError and sqlite3.Error, and then the folder is gone again.
    """
    if not (store / "secret").is_file():
        raise FileNotFoundError(f"{store} is no store of relay's: it has no secret")
    target.mkdir(mode=0o700, parents=True)
    try:
        return [*_files(store, target), *_databases(store, target)]
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _files(store: Path, target: Path) -> list[str]:
    found = [name for name in FILES if (store / name).is_file()]
    for name in found:
        shutil.copyfile(store / name, target / name)
        (target / name).chmod(0o600)
    return found


def _databases(store: Path, target: Path) -> list[str]:
    found = [name for name in DATABASES if (store / name).is_file()]
    for name in found:
        (target / name).touch(mode=0o600)
        with (
            closing(sqlite3.connect(f"{(store / name).resolve().as_uri()}?mode=rw", uri=True, timeout=30)) as source,
            closing(sqlite3.connect(target / name)) as copied,
        ):
            source.backup(copied)
            # It is a whole database of one file, and every page of it can be read.
            copied.execute("PRAGMA journal_mode=delete")
            [(said,)] = copied.execute("PRAGMA quick_check").fetchall()
            if said != "ok":
                raise sqlite3.DatabaseError(f"{name}: {said}")
    return found


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Copy the folder of a relay's embedded store while relay runs on it.")
    parser.add_argument("store", type=Path, help="store.path of relay.yaml, which is .relay beside it by default")
    parser.add_argument("target", type=Path, help="a folder that is not there yet")
    given = parser.parse_args()
    try:
        copied = copy(given.store, given.target)
    except (OSError, sqlite3.Error) as error:
        print(f"no backup: {error}", file=sys.stderr)
        return 1
    print(f"{given.target}: {', '.join(copied)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
