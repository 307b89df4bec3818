#!/bin/sh
# Predict with each classifier, fold and epoch: the fold's own slices (out of fold) and the test set.
#
#   sh bin/predict.sh
#   CONFS=conf/efficientnet-b2.yaml FOLDS=0 EPOCHS=3 sh bin/predict.sh
#
# CONFS, FOLDS, NPROC, ICH_ROOT: as in train.sh. EPOCHS: whose checkpoints (2 3). Files that are there already, from the
# same checkpoints, are left as they are.

set -eu
. "$(dirname "$0")/_common.sh"
need_python

for conf in $CONFS; do
    for fold in $FOLDS; do
        # shellcheck disable=SC2086 # EPOCHS is a list
        launch src.classify.predict "$conf" --fold "$fold" --split valid test --epochs $EPOCHS --root "$ICH_ROOT"
    done
done
