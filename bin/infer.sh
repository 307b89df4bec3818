#!/bin/sh
# Read new studies with the detector: DICOM files, folders at any depth, zips (also of a CD). Finds the head CT series in
# them, and writes for each its probabilities, a summary and a page to scroll through; over all of them a work list.
#
#   sh bin/infer.sh /data/cd.zip
#   sh bin/infer.sh /data/incoming --output /data/answers --prevalence 0.1
#   sh bin/infer.sh /data/incoming --dicom --send pacs.example:104 --aet PACS
#
# Arguments: --detector, --output (answers in the current folder), --series, --all-series, --prevalence, --no-maps,
# --runtime (torch, onnx, or auto: the faster of what there is), --dicom, --send, --aet, --calling-aet, --resend, --device;
# python -m src.study.infer -h explains them.
# ICH_ROOT: where model/detector is (the repository); ENGINE, JOBS, DASK_ADDRESS: for reading headers, as in
# preprocess.sh. A second run keeps what is there. docs/study.md has the rest.

set -eu
. "$(dirname "$0")/_common.sh"
need_python
[ $# -gt 0 ] || fail "no PATH; expected DICOM files, folders or zips; see sh bin/infer.sh -h"

run_at_caller src.study.infer "$@" --root "$ICH_ROOT" --engine "$ENGINE" \
    ${JOBS:+--jobs "$JOBS"} ${DASK_ADDRESS:+--dask-address "$DASK_ADDRESS"}
