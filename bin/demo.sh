#!/bin/sh
# One command on a fresh machine: set-up, then the whole pipeline on about 500 generated head CT slices, with both
# architectures at 64 px, 5 folds and 3 epochs. All of it stays under cache/demo. Some 8 minutes on two cores.
#
#   sh bin/demo.sh
#
# Run again, it goes on where it was or shows the result again; delete cache/demo to start anew.

set -eu
. "$(dirname "$0")/_common.sh"

run sh bin/setup.sh
export ICH_ROOT="$repository/cache/demo"
export CONFS="conf/demo/se_resnext50_32x4d.yaml conf/demo/efficientnet-b2.yaml"
export SEQUENCES=conf/demo/sequence/gru.yaml FOLDS="0 1 2 3 4" EPOCHS="2 3" EMBED_EPOCH=3 PCA= MEMBERS=last

step() { printf '\n== %s\n' "$*"; }

step "generating head CTs"
run "$PYTHON" -m src.synthetic.make_competition --output "$ICH_ROOT/input" \
    --patients 92 --slices 5 --size 128 --difficulty easy --seed 0
step "bin/preprocess.sh"
run sh bin/preprocess.sh

# Images this small keep one core busy, not several: folds side by side, each process on half of the cores.
threads=${OMP_NUM_THREADS:-$((($(nproc) + 1) / 2))}
for script in train predict sequence; do
    step "bin/$script.sh, two processes side by side"
    for folds in "0 1 2" "3 4"; do # a dumb terminal gets lines: two bars would overwrite each other
        start env FOLDS="$folds" TERM=dumb OMP_NUM_THREADS="$threads" sh "bin/$script.sh"
    done
    finish
done

step "bin/ensemble.sh"
run sh bin/ensemble.sh

step "bin/report.sh"
run sh bin/report.sh

cat <<END

The demo is done. Its submission: cache/demo/submission/submission.csv
A report on all of it, for a browser: cache/demo/submission/report.html
These heads are generated and easy: the figures above show that the pipeline learns, nothing more.

What it trained, as one folder to predict with (README.md, The real job):
    ICH_ROOT=cache/demo sh bin/export.sh

Next, the real data (README.md, The real job): put the competition's files into input/, then
    sh bin/preprocess.sh
    sh bin/train.sh
    sh bin/predict.sh
    sh bin/sequence.sh
    sh bin/ensemble.sh
    sh bin/report.sh
END
