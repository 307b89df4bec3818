#!/bin/sh
# Pack what made submission/submission.csv into one folder, model/detector: the networks of all folds and epochs, their
# second stage, the ensemble's recipe, operating points and a model card. It is complete by itself.
#
#   sh bin/export.sh
#   sh bin/export.sh --folds 0        a fast detector of one fold
#   sh bin/export.sh --networks 4     the first four networks, fold after fold
#   sh bin/export.sh --onnx           with an ONNX model of each network, for use without PyTorch; twice the size
#
# Arguments: --folds, --epochs, --networks, --onnx, --output, --manifest; python -m src.detector.export -h explains them.
# ICH_ROOT: folder of cache/ model/ submission/ (the repository). Its size is said before it is written.

set -eu
. "$(dirname "$0")/_common.sh"
need_python

run_at_caller src.detector.export --root "$ICH_ROOT" "$@"
