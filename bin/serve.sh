#!/bin/sh
# A local page to read head CTs in: drop a folder, files or a zip of DICOM on it, or give PATHs here; a work list by
# urgency, slices to scroll through while the detector computes, and a form to agree or disagree with it.
#
#   sh bin/serve.sh
#   sh bin/serve.sh /data/incoming /data/cd.zip --output answers
#   sh bin/serve.sh --detector /models/detector --port 8765
#
# Open the address that it prints, which holds a token, in a browser on this machine; Ctrl-C ends.
# Arguments: --detector, --port (8000; 0 for any free one), --output (keeps results and readings there; without it
# nothing is kept), --no-maps, --runtime (torch, onnx, or auto), --device; python -m src.viewer.serve -h explains them.
# ICH_ROOT: where model/detector is (the repository). docs/study.md has the rest.

set -eu
. "$(dirname "$0")/_common.sh"
need_python

run_at_caller src.viewer.serve "$@" --root "$ICH_ROOT"
