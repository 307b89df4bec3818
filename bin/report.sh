#!/bin/sh
# One page about all of it, submission/report.html: data, training, discrimination, calibration, errors to scroll through,
# model card. Its tables (CSV) and charts (SVG, PNG) are in submission/report/.
#
#   sh bin/report.sh
#   ICH_ROOT=/data/ich sh bin/report.sh
#
# It may be run after each step: what is not there yet is named, with the step that fills it. What was trained is what lies
# in model/, what was submitted what submission/manifest.json names; so ICH_ROOT, the folder of cache/ model/ submission/
# (the repository), is the only variable.

set -eu
. "$(dirname "$0")/_common.sh"
need_python

run "$PYTHON" -m src.report.make --root "$ICH_ROOT"
