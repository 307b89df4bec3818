#!/bin/sh
# Make .venv and install what the pipeline needs, in exact versions with checked hashes. Does nothing when .venv is
# current. About 6 GB, most of it torch with CUDA.
#
#   sh bin/setup.sh          to run the pipeline
#   sh bin/setup.sh --dev    and to test it
#
# PYTHON: where it is set, that interpreter is taken as it is and nothing is installed.

set -eu
. "$(dirname "$0")/_common.sh"

[ -n "${own_python:-}" ] || exit 0
case ${1-} in
"") lock=requirements.lock ;;
--dev) lock=requirements-dev.lock ;;
*) fail "unknown argument $1; see sh bin/setup.sh -h" ;;
esac

# the stamp holds the checksum of what was installed; the development set includes the other
wanted=$(cksum <"$lock")
for installed in requirements.lock requirements-dev.lock; do
    stamp=.venv/$installed.stamp
    if [ -x "$PYTHON" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(cksum <"$installed")" ]; then
        case $installed in "$lock" | requirements-dev.lock) exit 0 ;; esac
    fi
done

python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "no Python 3.11 or newer found; install one, or set PYTHON"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments; install its venv module (on Debian or Ubuntu: python3-venv)"

echo "setting up .venv from $lock: about 6 GB, a few minutes"
rm -f .venv/*.stamp
[ -x "$PYTHON" ] || run "$python" -m venv --clear .venv
quiet=
[ -t 1 ] || quiet=--quiet # pip's own bars in a terminal, no list of hundreds of files in a log
# two packages come as sources alone: they are built by the locked setuptools, not by whatever pip would fetch for it
sed -n '/^setuptools==/,/[^\\]$/p' "$lock" >.venv/build.lock
for part in .venv/build.lock "$lock"; do
    # shellcheck disable=SC2086 # an option or none
    run "$PYTHON" -m pip install --disable-pip-version-check $quiet --require-hashes --no-build-isolation \
        --requirement "$part"
done
echo "$wanted" >".venv/$lock.stamp"
