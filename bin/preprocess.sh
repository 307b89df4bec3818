#!/bin/sh
# From Kaggle's files in input/ to cache/: one table, one image store, and folds, for train and test.
#
#   sh bin/preprocess.sh
#   JOBS=4 ICH_ROOT=/data/ich sh bin/preprocess.sh
#
# Where input/ has no folders of DICOM files, Kaggle's zip there is read in place (and the CSV files taken out of it).
# Stopped, in whatever way, it goes on when it is run again: series that are stored already are left as they are.
#
# ICH_ROOT: folder of input/ cache/ model/ submission/ (the repository). JOBS: workers (all cores). ENGINE: serial, loky
# or dask (loky). DASK_ADDRESS: the scheduler of a running cluster, for dask (a local one; docs/cluster.md).
# MAX_REJECTED: fraction of unreadable slices, from ten on, that fails the run (0.01).

set -eu
. "$(dirname "$0")/_common.sh"
need_python
mkdir -p "$ICH_ROOT/input" "$ICH_ROOT/cache" "$ICH_ROOT/model" "$ICH_ROOT/submission" 2>/dev/null ||
    fail "ICH_ROOT=$ICH_ROOT: folders cannot be made there"
cache=$ICH_ROOT/cache

# Find Kaggle's zip: sets zip, to nothing where there is none.
find_zip() {
    zip=
    for file in "$ICH_ROOT"/input/*.zip; do
        [ -f "$file" ] || continue
        [ -z "$zip" ] || fail "$ICH_ROOT/input has several zips, ${zip##*/} and ${file##*/}; leave Kaggle's alone there"
        zip=$file
    done
}

for csv in train sample_submission; do
    ls "$ICH_ROOT"/input/stage_[12]_$csv.csv >/dev/null 2>&1 && continue
    find_zip
    [ -z "$zip" ] || run "$PYTHON" -m src.preprocess.unpack_csv --archive "$zip" --output "$ICH_ROOT/input"
done

# Find the slices of a split ("train" or "test"), folders before the zip: sets images.
find_images() {
    for images in "$ICH_ROOT/input/${stage}_$1" "$ICH_ROOT/input/${stage}_$1_images"; do
        [ ! -d "$images" ] || return 0
    done
    find_zip
    images=$zip
    [ -z "$zip" ] || return 0
    fail "$ICH_ROOT/input has ${csv##*/} but no folder ${stage}_$1 or ${stage}_$1_images with its DICOM files, nor" \
        "Kaggle's zip"
}

for split in train test; do
    find_csv $split
    find_images $split
    set -- --engine "$ENGINE" ${JOBS:+--jobs "$JOBS"} ${DASK_ADDRESS:+--dask-address "$DASK_ADDRESS"}
    [ $split = train ] && labels= || labels=--test
    run "$PYTHON" -m src.preprocess.dicom_to_dataframe \
        --csv "$csv" --images "$images" --output "$cache/$split.parquet" $labels "$@"
    run "$PYTHON" -m src.preprocess.create_dataset --table "$cache/$split.parquet" --output "$cache/$split" \
        ${MAX_REJECTED:+--max-rejected "$MAX_REJECTED"} "$@"
done
run "$PYTHON" -m src.preprocess.make_folds \
    --table "$cache/train.parquet" --store "$cache/train" --output "$cache/folds.parquet"
run "$PYTHON" -m src.preprocess.audit --root "$ICH_ROOT"
