#!/bin/sh
# Validate the detector on labelled studies that it was not trained on: discrimination, calibration and predictive values
# by study, with intervals over patients, and by scanner, thickness, kernel, sex and age.
#
#   sh bin/validate.sh /data/cq500 --labels /data/cq500/reads.csv
#   sh bin/validate.sh /data/own --labels own.csv --output /data/validation --prevalence 0.1
#
# Arguments: --labels (a row for each study, or CQ500's reads), --detector, --output (validation in the current folder),
# --all-series, --prevalence, --no-maps, --device; python -m src.study.validate -h explains them. ICH_ROOT: where
# model/detector is (the repository); ENGINE, JOBS, DASK_ADDRESS: for reading headers, as in preprocess.sh. A second run
# keeps the answers that are there. docs/validation.md has the rest.

set -eu
. "$(dirname "$0")/_common.sh"
need_python
[ $# -gt 0 ] || fail "no PATH; expected DICOM files, folders or zips; see sh bin/validate.sh -h"

run_at_caller src.study.validate "$@" --root "$ICH_ROOT" --engine "$ENGINE" \
    ${JOBS:+--jobs "$JOBS"} ${DASK_ADDRESS:+--dask-address "$DASK_ADDRESS"}
