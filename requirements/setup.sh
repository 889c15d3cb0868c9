#!/bin/sh
# Make .venv with everything that requirements/dev.txt holds, in the folder above this one; again is a no-op.
# $1: the Python to use; empty: the first of 3.11, 3.12, 3.13 that is found.
set -eu
cd "$(dirname "$0")/.."
ready=.venv/.ready

fail() {
    echo "set-up: $*" >&2
    exit 2
}

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

python=${1:-}
if [ -n "$python" ]; then
    command -v "$python" >/dev/null || fail "$python was not found; name another: make setup PYTHON=/path/to/python3.11"
    supported "$python" || fail "$python is not Python 3.11, 3.12 or 3.13, the ones that the locks hold for"
else
    for python in python3.11 python3.12 python3.13 python3 python ''; do
        [ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 was found. Install one (Debian, Ubuntu: apt install python3" \
            "python3-venv), or name yours: make setup PYTHON=/path/to/python3.11"
        ! supported "$python" || break
    done
fi

# What an environment was made with: the Python, this folder (scripts name it), and the lock.
whose="$("$python" -c 'import sys; print(sys.version.split()[0], sys.base_prefix)') $(pwd)"
made="$whose $(cat requirements/dev.txt pyproject.toml requirements/setup.sh requirements/install.py | cksum)"
whole() {
    [ "$(cat $ready 2>/dev/null)" = "$made" ] && .venv/bin/python -c '' 2>/dev/null
}

! whole || exit 0

# Two at once in one folder: the second waits, and finds it done.
if command -v flock >/dev/null && (: >.venv.lock) 2>/dev/null; then
    exec 9>.venv.lock
    flock -n 9 || { echo "another set-up is at work in this folder; waiting for it" && flock 9; }
    ! whole || exit 0
fi

"$python" -c 'import ensurepip, venv' 2>/dev/null \
    || fail "$python cannot make environments. Debian and Ubuntu keep that apart: apt install python3-venv"
echo "setting up .venv with $("$python" --version): three to ten minutes the first time"
# One that was whole is brought up to date in place; what a killed set-up left, or another Python made, is made anew.
case "$(cat $ready 2>/dev/null)" in
    "$whose "*) rm -f $ready ;;
    *) rm -rf .venv && "$python" -m venv .venv || fail "no environment could be made in $(pwd)/.venv (see above)" ;;
esac
# Words of pip's settings, e.g. PIP_ARGS="--find-links FOLDER".
# shellcheck disable=SC2086
.venv/bin/python requirements/install.py dev ${PIP_ARGS:-}
# editable_mode=compat puts this folder on the path, so that a room which comes later is found too.
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation \
    --config-settings editable_mode=compat -e .
.venv/bin/llm4msr --version
echo "$made" >$ready
echo "next: make demo (the whole loop on real data, some two minutes); make help lists the rest"
