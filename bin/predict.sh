#!/bin/sh
# Predict with each classifier, fold and epoch: the fold's own slices (out of fold) and the test set. Each test slice
# is read once per classifier, for the networks of all its folds and epochs.
#
#   sh bin/predict.sh
#   CONFS=conf/efficientnet-b2.yaml FOLDS=0 EPOCHS=3 sh bin/predict.sh
#
# CONFS, FOLDS, NPROC, ICH_ROOT: as in train.sh. EPOCHS: whose checkpoints (2 3). Files that are there already, from the
# same checkpoints, are left as they are; what was interrupted goes on after the last minute that was saved.

set -eu
. "$(dirname "$0")/_common.sh"
need_python
# shellcheck disable=SC2086 # a list
need_confs $CONFS

for conf in $CONFS; do
    # shellcheck disable=SC2086 # FOLDS and EPOCHS are lists
    launch src.classify.predict "$conf" --fold $FOLDS --split valid test --epochs $EPOCHS --root "$ICH_ROOT"
done
