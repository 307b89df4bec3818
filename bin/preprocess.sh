#!/bin/sh
# From Kaggle's files in input/ to cache/: one table, one image store, and folds, for train and test.
#
#   sh bin/preprocess.sh
#   JOBS=4 ICH_ROOT=/data/ich sh bin/preprocess.sh
#
# ICH_ROOT: folder of input/ cache/ model/ submission/ (the repository). JOBS: workers (all cores). ENGINE: serial or
# loky (loky). Series that are stored already are left as they are.

set -eu
. "$(dirname "$0")/_common.sh"
need_python
mkdir -p "$ICH_ROOT/input" "$ICH_ROOT/cache" "$ICH_ROOT/model" "$ICH_ROOT/submission" 2>/dev/null ||
    fail "ICH_ROOT=$ICH_ROOT: folders cannot be made there"
cache=$ICH_ROOT/cache

for split in train test; do
    find_input $split
    set -- --engine "$ENGINE" ${JOBS:+--jobs "$JOBS"}
    [ $split = train ] && labels= || labels=--test
    run "$PYTHON" -m src.preprocess.dicom_to_dataframe \
        --csv "$csv" --images "$images" --output "$cache/$split.parquet" $labels "$@"
    run "$PYTHON" -m src.preprocess.create_dataset --table "$cache/$split.parquet" --output "$cache/$split" "$@"
done
run "$PYTHON" -m src.preprocess.make_folds \
    --table "$cache/train.parquet" --store "$cache/train" --output "$cache/folds.parquet"
