#!/bin/sh
# Bag the predictions that exist into submission/submission.csv, and score them out of fold: those of predict.sh, for
# CONFS x FOLDS x EPOCHS, and those of sequence.sh, for CONFS x FOLDS x SEQUENCES.
#
#   sh bin/ensemble.sh
#   FOLDS=0 sh bin/ensemble.sh                    one fold alone also reaches a submission
#   MEMBERS=cnn sh bin/ensemble.sh                the classifiers alone, without the second stage
#   BLEND=weights SMOOTH=auto sh bin/ensemble.sh  more than simple bagging
#
# CONFS, FOLDS, EPOCHS, SEQUENCES, ICH_ROOT: as in predict.sh and sequence.sh. MEMBERS: last, of each classifier its last
# stage, the sequence models where they have predicted all FOLDS (last); cnn; sequence; or all, both stages. BLEND: mean,
# logit-mean or weights. SMOOTH: millimetres along z, or auto (0: none). CALIBRATE: none, temperature, platt or isotonic.
# CONSISTENT: whether `any` is made at least as probable as each subtype, yes or no (yes). docs/ensemble.md says what each
# does.

set -eu
. "$(dirname "$0")/_common.sh"
need_python
find_csv test
case $CONSISTENT in yes) consistent=--consistent ;; no) consistent= ;; esac

# shellcheck disable=SC2086 # CONFS, FOLDS, EPOCHS and SEQUENCES are lists, and consistent may be nothing
run "$PYTHON" -m src.ensemble.make_submission --sample "$csv" --output "$ICH_ROOT/submission/submission.csv" \
    --root "$ICH_ROOT" --confs $CONFS --folds $FOLDS --epochs $EPOCHS --sequences $SEQUENCES --members "$MEMBERS" \
    --blend "$BLEND" --smooth "$SMOOTH" --calibrate "$CALIBRATE" $consistent
printf '\nto submit it:\n  kaggle competitions submit -c rsna-intracranial-hemorrhage-detection -f %s -m "%s"\n' \
    "'$ICH_ROOT/submission/submission.csv'" "blend $BLEND, smooth $SMOOTH, calibrate $CALIBRATE, consistent $CONSISTENT"
