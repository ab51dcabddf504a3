#!/usr/bin/env bash
# relay: finds a Python, sets up .venv once, then starts. `./run.sh help` lists the commands.
#
# Written for bash 3.2, which is what macOS has. Settings of its own, from the environment:
#   RELAY_PYTHON  the Python to set up .venv with, instead of the first one that fits
#   RELAY_VENV    an environment that is ready for use; nothing is set up then
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for `sh run.sh`, here and on macOS
set +o posix
set -euo pipefail

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do
  target=$(readlink "$self")
  case $target in
    /*) self=$target ;;
    *) self=$(dirname "$self")/$target ;;
  esac
done
root=$(CDPATH='' cd -- "$(dirname "$self")" && pwd -P)
venv=${RELAY_VENV:-$root/.venv}
python=$venv/bin/python

# Another project's modules must not get in here.
unset PYTHONHOME PYTHONPATH

help() {
  cat <<'END'
./run.sh           set up .venv on first use, then mitmdump: relay at http://127.0.0.1:8080
./run.sh web       the same in mitmweb, to look inside at http://127.0.0.1:8081
./run.sh demo      relay before a small upstream of its own: no key, no network (demo web: in mitmweb)
./run.sh check     read relay.yaml and say what it means, or what is wrong with it
./run.sh record    relay that saves what passes to a file, without keys: ./run.sh record FILE
./run.sh replay    answer apps from that file, without upstream or key: ./run.sh replay FILE [--fast] [--or-forward] [--list] [--faults 0.2]
./run.sh keys      hand out keys of relay's own, with budgets: ./run.sh keys new NAME [--budget 20 --per month], list, revoke, rotate
./run.sh usage     what was used and what it has cost: ./run.sh usage [--by key|model|day] [--since 7d] [--json|--csv]
./run.sh export    what a flow file holds, without keys: ./run.sh export FILE.flow --to jsonl|html|otlp [--out FILE] [--thread HASH]
./run.sh test      the tests; --quick: those that start no relay; further arguments go to pytest
./run.sh bench     the benchmarks
./run.sh lock      write requirements/*.txt anew from pyproject.toml; --upgrade takes the newest versions
./run.sh help      this; ./run.sh record --help and so on say more of a command

Further arguments go to mitmproxy: ./run.sh -p 9000, ./run.sh -w out.flow, ./run.sh web --set web_password=...
The settings are in relay.yaml, or in the file that RELAY_CONFIG names.
END
}

say() { printf '%s\n' "$*" >&2; }

# -- a Python that really runs

# Prints the version of a fitting Python. Else fails, and the last line of stderr says why. Any Python can read this.
probe() {
  "$1" -E -s -c '
import sys
sys.path[:] = [folder for folder in sys.path if folder]
version = ".".join(map(str, sys.version_info[:3]))
if sys.version_info < (3, 13):
    sys.exit("is Python " + version + ", too old")
import sysconfig
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit("is not the usual CPython with a GIL")
missing = []
for module in ("ssl", "venv", "ensurepip", "sqlite3", "dbm.sqlite3"):
    try:
        __import__(module)
    except ImportError:
        missing.append(module)
if missing:
    sys.exit("is Python " + version + " without " + ", ".join(missing))
print(version)' </dev/null
}

# Every Python worth a try, one a line, best first.
candidates() {
  if [ -n "${RELAY_PYTHON:-}" ]; then
    command -v "$RELAY_PYTHON" || printf '%s\n' "$RELAY_PYTHON"
    return
  fi
  local name minor found
  for name in python3.14 python3.13 python3 python; do
    type -aP "$name" || true
  done
  for minor in 14 13; do
    for found in "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/3.$minor".*/bin/python3 \
      {/opt/homebrew,/usr/local}/bin/python3.$minor "/Library/Frameworks/Python.framework/Versions/3.$minor/bin/python3"; do
      [ ! -x "$found" ] || printf '%s\n' "$found"
    done
  done
  if type -P uv >/dev/null; then
    uv python find --system --no-python-downloads '>=3.13' 2>/dev/null || true
  fi
}

# Sets base and base_version to a fitting Python, or says what to install and ends.
find_python() {
  local tried='' candidate why
  while IFS= read -r candidate; do
    # Without Apple's developer tools this one is a stub that opens a dialog.
    if [ "$candidate" = /usr/bin/python3 ] && [ "$(uname)" = Darwin ] && ! xcode-select -p >/dev/null 2>&1; then
      continue
    fi
    if base_version=$(probe "$candidate" 2>"$scratch/why"); then
      base=$candidate
      return
    fi
    why=$(grep -v '^ *$' "$scratch/why" | head -n 1) || why='does not run'
    [ -x "$candidate" ] || why='is not there'
    case $tried in *"  $candidate "*) ;; *) tried="$tried${tried:+$'\n'}  $candidate $why" ;; esac
  done < <(candidates)
  say 'relay needs Python 3.13 or newer, and there is none here that fits:'
  say "${tried:-  no python3 on the path, none of pyenv or uv}"
  if [ -n "${RELAY_PYTHON:-}" ]; then
    say 'RELAY_PYTHON names it: set it to another, or unset it to look for one.'
    exit 1
  fi
  say 'Install one, then run ./run.sh again:'
  say '  Debian, Ubuntu   sudo apt install python3.13 python3.13-venv   (where the release has it)'
  say '  macOS            brew install python@3.13'
  say '  pyenv            pyenv install 3.13'
  say '  uv               uv python install 3.13'
  say '  else             https://www.python.org/downloads/'
  say 'If it is somewhere else: RELAY_PYTHON=/path/to/python3.13 ./run.sh'
  exit 1
}

# -- .venv

# The file with the packages for $1: run (what relay needs), redis (and what a shared store needs) or dev (and what its
# tests and tools need, all of it).
packages() { printf '%s' "requirements/$1.txt"; }

# What an environment was made from; another one is due when this changes.
recipe() {
  local files=(pyproject.toml requirements/run.txt)
  [ "$1" = run ] || files+=("$(packages "$1")")
  (cd "$root" && cat "${files[@]}" | cksum)
}

# run, or redis where the settings ask for a shared store, or may: the environment may say so.
needed() {
  local settings=${RELAY_CONFIG:-$root/relay.yaml}
  if [ -f "$settings" ] && grep -qE "^[^#]*kind['\"]?: *['\"]?(redis|\\$\{)" "$settings"; then echo redis; else echo run; fi
}

# Whether .venv is complete. The stamp is written last, so a set-up that broke off has none.
ready() {
  [ -f "$venv/.relay-$1" ] && [ "$(cat "$venv/.relay-$1")" = "$(recipe "$1")" ] && version >/dev/null
}

# The version of .venv's Python, if that runs; the one it was made from may be gone.
version() { "$python" -E -s -c 'import platform; print(platform.python_version())' 2>/dev/null; }

# The same, and it is the Python that was asked for.
fits() { ready "$1" && { [ -z "${RELAY_PYTHON:-}" ] || [ "$(version)" = "$base_version" ]; }; }

# One set-up at a time. The lock belongs to file descriptor 9, so the kernel drops it with the last process that holds it;
# where locks are not to be had, we go on without.
lock() {
  exec 9<"$root/pyproject.toml"
  "$base" -E -s -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.stderr.write("another run.sh is setting up .venv: waiting for it\n")
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass'
}

# Makes .venv complete. $1: run, redis or dev, as above.
set_up() {
  if [ -n "${RELAY_VENV:-}" ]; then
    [ -x "$python" ] || { say "RELAY_VENV: there is no $python; set it to an environment that is ready, or unset it."; exit 1; }
    return
  fi
  if ready "$1" && [ -z "${RELAY_PYTHON:-}" ]; then return; fi
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  trap 'exit 130' INT
  find_python
  if ! fits "$1"; then
    lock
    fits "$1" || build "$1" # the one we waited for may have done it
    exec 9<&-
  fi
  rm -rf "$scratch"
  trap - EXIT INT
}

build() {
  local files=(-r "$root/requirements/run.txt")
  [ "$1" = run ] || files+=(-r "$root/$(packages "$1")")
  # A complete environment of the same Python is brought up to date, which needs no network if nothing is missing.
  # Any other, or one left half made, is made anew.
  if [ -f "$venv/.relay-run" ] && [ "$(version)" = "$base_version" ]; then
    say "bringing .venv up to date"
    mv "$venv"/.relay-* "$scratch"
  else
    say "setting up .venv with Python $base_version (once, about half a minute)"
    "$base" -E -s -m venv --clear --prompt relay "$venv" >"$scratch/log" 2>&1 || failed 'Python could not make .venv:'
  fi
  follow_uv
  if ! PIP_USER=0 "$python" -m pip install --disable-pip-version-check --no-input --progress-bar off --require-hashes \
    "${files[@]}" >"$scratch/log" 2>&1; then
    mv "$scratch"/.relay-* "$venv" 2>/dev/null || true # pip has put back what was there
    failed 'The packages could not be installed:' network
  fi
  recipe run >"$venv/.relay-run"
  [ "$1" != dev ] || recipe redis >"$venv/.relay-redis" # it has that, too
  [ "$1" = run ] || recipe "$1" >"$venv/.relay-$1"
}

# pip doesn't read uv's settings; who has a mirror for uv alone means it for this, too.
follow_uv() {
  local mirror=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-}}
  if [ -n "$mirror" ] && ! "$python" -m pip config list 2>/dev/null | grep '\.index-url=' >/dev/null; then
    export PIP_INDEX_URL=${mirror#*=}
  fi
}

# Ends with the last words of what failed. $1: what it was; $2: network, if that may be to blame.
failed() {
  say "$1"
  say ''
  grep -v -e '^WARNING: Location ' -e '^Ignoring ' -e '^ *$' "$scratch/log" | tail -n 12 | without_passwords >&2 || true
  say ''
  [ "${2:-}" != network ] || mirrors
  exit 1
}

without_passwords() { sed -e 's#://[^/@ ]*@#://***@#g' -e 's/^/  /'; }

mirrors() {
  local name value
  say 'Settings of yours in force for downloads, if any:'
  {
    for name in UV_DEFAULT_INDEX UV_INDEX_URL PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_NO_INDEX PIP_PROXY \
      HTTPS_PROXY https_proxy ALL_PROXY all_proxy; do
      value=${!name:-}
      [ -z "$value" ] || printf '%s=%s\n' "$name" "$value"
    done
    "$python" -m pip config list 2>/dev/null | grep -E '\.(index-url|extra-index-url|no-index|proxy)=' | grep -v '^:env:' | sed 's/^/pip config: /'
  } | without_passwords >&2 || true
  say 'Set a mirror of the Python package index  PIP_INDEX_URL=https://.../simple ./run.sh'
  say 'Set an HTTP proxy (pip speaks no SOCKS)   HTTPS_PROXY=http://127.0.0.1:7890 ./run.sh'
}

# -- the commands

relay() { PYTHONPATH=$root exec "$python" -P -m addons.cli "$@"; }

lock_versions() {
  set_up dev
  local uv=(uv)
  if ! type -P uv >/dev/null; then
    "$python" -m pip install --quiet --disable-pip-version-check uv
    uv=("$venv/bin/uv")
  fi
  cd "$root"
  local compile=("${uv[@]}" pip compile --quiet --universal --python-version 3.13 --generate-hashes --no-annotate
    --no-emit-index-url --custom-compile-command './run.sh lock')
  "${compile[@]}" "$@" pyproject.toml -o requirements/run.txt
  "${compile[@]}" "$@" pyproject.toml --extra redis -c requirements/run.txt -o requirements/redis.txt
  "${compile[@]}" "$@" --group dev -c requirements/run.txt -o requirements/dev.txt
}

case ${1:-} in
  -h | --help) command=help ;;
  '' | -*) command=start ;;
  *)
    command=$1
    shift
    ;;
esac

case $command in
  start | web | demo | check | record | replay | keys | usage | export)
    set_up "$(needed)"
    relay "$command" "$@"
    ;;
  test)
    set_up dev
    cd "$root"
    # A file at a time to each core and to one more, since tests wait for much; then, with the machine to themselves,
    # those that watch the clock.
    found=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
    cores=(-n "$((found < 3 ? found + 1 : 4))" --dist loadfile -m 'not alone')
    case ${1:-} in
      '')
        failed=0
        "$python" -m pytest "${cores[@]}" || failed=$?
        "$python" -m pytest -m alone || failed=$?
        exit "$failed"
        ;;
      --quick)
        shift
        exec "$python" -m pytest "${cores[@]}" --ignore=tests/live "$@"
        ;;
      *) exec "$python" -m pytest "$@" ;;
    esac
    ;;
  bench)
    if [ ! -d "$root/tests/bench" ]; then
      say 'relay has no benchmarks yet; they will be in tests/bench.'
      exit 1
    fi
    set_up dev
    cd "$root"
    exec "$python" -m tests.bench "$@"
    ;;
  lock) lock_versions "$@" ;;
  help) help ;;
  *)
    say "run.sh: there is no command '$command'; these there are:"
    help >&2
    exit 2
    ;;
esac
