#!/bin/sh
# One command on a fresh machine: set-up, then every test. Arguments go to pytest.
#
#   sh bin/test.sh
#   sh bin/test.sh tests/ct -k windows

set -eu
. "$(dirname "$0")/_common.sh"

run sh bin/setup.sh --dev
exec "$PYTHON" -m pytest "$@"
