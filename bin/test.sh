#!/bin/sh
# One command on a fresh machine: set-up, then every test. Arguments go to pytest.
#
#   sh bin/test.sh
#   sh bin/test.sh tests/ct -k windows

set -eu
. "$(dirname "$0")/_common.sh"

run sh bin/setup.sh --dev
# all of them: on two cores and more side by side, the files apart; each has some seconds of processes that only wait
[ $# -gt 0 ] || set -- --numprocesses logical --maxprocesses 4 --dist loadfile
exec "$PYTHON" -m pytest "$@"
