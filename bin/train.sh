#!/bin/sh
# Train each classifier on each fold. Folds that are trained already are left as they are; one that was interrupted
# goes on after its last saved step.
#
#   sh bin/train.sh
#   CONFS=conf/efficientnet-b2.yaml FOLDS="0 1" sh bin/train.sh
#
# Before a long one: python -m src.classify.train CONF --fold 0 --dry-run says what it amounts to, and --overfit 16
# whether the network learns sixteen slices by heart.
#
# CONFS: classifiers, relative to the repository (both of conf/). FOLDS: folds to leave out in turn (0 1 2 3 4). NPROC:
# processes of one training, usually one a GPU (1). ICH_ROOT: folder of input/ cache/ model/ (the repository).

set -eu
. "$(dirname "$0")/_common.sh"
need_python
# shellcheck disable=SC2086 # a list
need_confs $CONFS

for conf in $CONFS; do
    # shellcheck disable=SC2086 # FOLDS is a list
    launch src.classify.train "$conf" --fold $FOLDS --root "$ICH_ROOT"
done
