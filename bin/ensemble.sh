#!/bin/sh
# Bag the predictions that exist into submission/submission.csv, and score them out of fold: those of predict.sh, for
# CONFS x FOLDS x EPOCHS, and those of sequence.sh, for CONFS x FOLDS x SEQUENCES.
#
#   sh bin/ensemble.sh
#   FOLDS=0 sh bin/ensemble.sh                    one fold alone also reaches a submission
#   MEMBERS=sequence sh bin/ensemble.sh           the second stage alone
#   BLEND=weights SMOOTH=auto sh bin/ensemble.sh  more than simple bagging
#
# CONFS, FOLDS, EPOCHS, SEQUENCES, ICH_ROOT: as in predict.sh and sequence.sh. MEMBERS: cnn, sequence, or all that exist
# (all). BLEND: mean, logit-mean or weights. SMOOTH: millimetres along z, or auto (0: none). CALIBRATE: none, temperature
# or isotonic. docs/ensemble.md says what each does.

set -eu
. "$(dirname "$0")/_common.sh"
need_python
find_csv test

# the lists grow in "$@", which alone survives blanks in a path: test files, a separator, out-of-fold files
wanted=0
found=0
set --
for split in test valid; do
    if [ $split = valid ]; then
        case $MEMBERS in
        sequence) what="CONFS x FOLDS x SEQUENCES; run sh bin/sequence.sh first" ;;
        *) what="CONFS x FOLDS x EPOCHS; run sh bin/predict.sh first" ;;
        esac
        [ "$found" -gt 0 ] || fail "$ICH_ROOT/model has no predictions of the test set by $what"
        set -- "$@" --out-of-fold
    fi
    for conf in $CONFS; do
        name=${conf##*/}
        classifier=$ICH_ROOT/model/${name%.*}
        for fold in $FOLDS; do
            for epoch in $EPOCHS; do
                [ "$MEMBERS" != sequence ] || continue
                wanted=$((wanted + 1))
                file=$classifier/fold$fold/${split}_epoch$epoch.parquet
                [ -f "$file" ] || continue
                found=$((found + 1))
                set -- "$@" "$file"
            done
            for sequence in $SEQUENCES; do
                name=${sequence##*/}
                over=$classifier+${name%.*}
                [ "$MEMBERS" != cnn ] || continue
                [ "$MEMBERS" = sequence ] || [ -d "$over" ] || continue
                wanted=$((wanted + 1))
                for file in "$over/fold$fold/${split}_epoch"*.parquet; do # of its last epoch alone
                    [ -f "$file" ] || continue
                    found=$((found + 1))
                    set -- "$@" "$file"
                done
            done
        done
    done
done
[ "$found" -eq "$wanted" ] || echo "bagging the $found of $wanted prediction files that exist" >&2

run "$PYTHON" -m src.ensemble.make_submission --sample "$csv" --output "$ICH_ROOT/submission/submission.csv" \
    --root "$ICH_ROOT" --blend "$BLEND" --smooth "$SMOOTH" --calibrate "$CALIBRATE" --predictions "$@"
printf '\nto submit it:\n  kaggle competitions submit -c rsna-intracranial-hemorrhage-detection -f %s -m "%s"\n' \
    "'$ICH_ROOT/submission/submission.csv'" "blend $BLEND, smooth $SMOOTH, calibrate $CALIBRATE"
