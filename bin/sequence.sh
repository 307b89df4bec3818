#!/bin/sh
# The second stage: train sequence models over all slices of a series, and predict with them. Of each classifier and fold,
# embeddings of every slice by that fold's network at one epoch; over these, each sequence model: out of fold and test.
#
#   sh bin/sequence.sh
#   CONFS=conf/efficientnet-b2.yaml FOLDS=0 PCA=256 sh bin/sequence.sh
#
# CONFS, FOLDS, NPROC, ICH_ROOT: as in predict.sh. SEQUENCES: the sequence models (conf/sequence/gru.yaml). EMBED_EPOCH:
# whose checkpoints embed (3). PCA: principal components that embeddings are reduced to, where all of their numbers are
# too much for the disk (none). What is there already, from the same checkpoints, is left as it is; what was interrupted
# goes on after its last save.

set -eu
. "$(dirname "$0")/_common.sh"
need_python
# shellcheck disable=SC2086 # lists
need_confs $CONFS $SEQUENCES

for conf in $CONFS; do
    # shellcheck disable=SC2086 # FOLDS is a list
    launch src.sequence.embed "$conf" --fold $FOLDS --epoch "$EMBED_EPOCH" --root "$ICH_ROOT" ${PCA:+--pca "$PCA"}
    for sequence in $SEQUENCES; do
        set -- "$sequence" --classifier "$conf" --fold $FOLDS --epoch "$EMBED_EPOCH" --root "$ICH_ROOT"
        launch src.sequence.train "$@"
        launch src.sequence.predict "$@" --split valid test
    done
done
