# What every script shares: settings, help, running a command. Sourced, with $0 the script.

caller=$PWD
repository=$(CDPATH= cd -- "$(dirname "$0")/.." && pwd)

fail() { # one line on stderr, exit status 2: a user's mistake
    echo "error: $*" >&2
    exit 2
}

# -h prints the comment at the top of the script
case ${1-} in
-h | --help)
    sed -n '2,/^$/{s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

case ${0##*/} in
setup.sh | test.sh | export.sh | infer.sh | validate.sh | serve.sh) ;; # these take arguments
*) [ $# -eq 0 ] || fail "$1: ${0##*/} takes no arguments, but variables; see sh bin/${0##*/} -h" ;;
esac

# A name that is nearly that of a variable would have no effect, and nobody would notice.
for pair in CONF:CONFS FOLD:FOLDS EPOCH:EPOCHS SEQUENCE:SEQUENCES MEMBER:MEMBERS JOB:JOBS ich_root:ICH_ROOT \
    confs:CONFS folds:FOLDS epochs:EPOCHS sequences:SEQUENCES members:MEMBERS EMBED_EPOCHS:EMBED_EPOCH; do
    eval "value=\${${pair%:*}-}"
    [ -z "$value" ] || fail "${pair%:*}=$value has no effect; did you mean ${pair#*:}?"
done

# Variables, the same in every script; README.md explains them.
: "${ICH_ROOT:=$repository}"
: "${CONFS:=conf/se_resnext50_32x4d.yaml conf/efficientnet-b2.yaml}"
: "${FOLDS:=0 1 2 3 4}"
: "${EPOCHS:=2 3}"
: "${SEQUENCES:=conf/sequence/gru.yaml}"
: "${EMBED_EPOCH:=3}"
: "${PCA:=}"
: "${MEMBERS:=last}"
: "${NPROC:=1}"
: "${JOBS:=}"
: "${ENGINE:=loky}"
: "${DASK_ADDRESS:=}"
: "${MAX_REJECTED:=}"
: "${BLEND:=mean}"
: "${SMOOTH:=0}"
: "${CALIBRATE:=none}"
: "${CONSISTENT:=yes}"
case $NPROC in *[!0-9]* | 0) fail "NPROC=$NPROC: expected a number of processes, 1 or more" ;; esac
case $MAX_REJECTED in *[!0-9.]*) fail "MAX_REJECTED=$MAX_REJECTED: expected a fraction from 0 to 1" ;; esac
case $PCA in *[!0-9]* | 0) fail "PCA=$PCA: expected a number of components, 1 or more" ;; esac
case $EMBED_EPOCH in *[!0-9]* | 0) fail "EMBED_EPOCH=$EMBED_EPOCH: expected an epoch, from 1" ;; esac
case $MEMBERS in last | cnn | sequence | all) ;; *) fail "MEMBERS=$MEMBERS: expected last, cnn, sequence or all" ;; esac
case $CONSISTENT in yes | no) ;; *) fail "CONSISTENT=$CONSISTENT: expected yes or no" ;; esac
for list in CONFS FOLDS EPOCHS SEQUENCES; do
    eval "value=\$$list"
    [ -n "$(echo $value)" ] || fail "$list is blank; expected names with blanks between them"
    case $list:$value in
    FOLDS:*[!0-9[:space:]]* | EPOCHS:*[!0-9[:space:]]*) fail "$list=$value: expected numbers with blanks between them, such as 0 1" ;;
    esac
done
case $ICH_ROOT in /*) ;; *) ICH_ROOT=$PWD/$ICH_ROOT ;; esac
[ -d "$ICH_ROOT" ] || [ ! -e "$ICH_ROOT" ] || fail "ICH_ROOT=$ICH_ROOT is no folder"
case ${PYTHON:-} in /* | "") ;; */*) PYTHON=$PWD/$PYTHON ;; esac
cd "$repository" # so that python finds src, and CONFS may be relative to it

if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    own_python=yes
fi
export ICH_ROOT CONFS FOLDS EPOCHS SEQUENCES EMBED_EPOCH PCA MEMBERS NPROC JOBS ENGINE DASK_ADDRESS MAX_REJECTED
export BLEND SMOOTH CALIBRATE CONSISTENT

need_python() {
    command -v "$PYTHON" >/dev/null 2>&1 || fail "$PYTHON is missing; run sh bin/setup.sh first, or set PYTHON"
}

# Look for conf files before hours of work on the first of them.
need_confs() {
    for conf in "$@"; do
        [ -f "$conf" ] || fail "$conf is missing; expected a conf, such as conf/efficientnet-b2.yaml"
    done
}

# Commands that run. On SIGTERM or Ctrl-C each is told to stop and waited for, and the script ends too: with 75 or 130
# where the same script, run again, goes on (every step is restartable), but with a command's own status where one failed.
# The traps are set before anything is started, so that no signal finds the script without them.
children=
stopped=
stop() {
    stopped=$1
    # shellcheck disable=SC2086 # a list
    [ -z "$children" ] || kill -TERM $children 2>/dev/null || :
}
trap 'stop 75' TERM
trap 'stop 130' INT

# Start a command beside what runs already.
start() {
    [ -z "$stopped" ] || finish # which ends the script
    "$@" &
    children="$children $!"
}

# Wait for all that was started.
finish() {
    failed=0
    tell_again
    for child in $children; do
        status=0
        wait "$child" || status=$?
        while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the command
            tell_again
            again=0
            wait "$child" || again=$?
            [ "$again" -ne 127 ] || break # it has ended, and another process has its number
            status=$again
        done
        case $status in
        0) ;;
        75 | 130 | 143) [ "$failed" -ne 0 ] || failed=$status ;;
        *) case $failed in 0 | 75 | 130 | 143) failed=$status ;; esac ;; # a failure outranks a stop
        esac
    done
    children=
    case $failed in 0 | 75 | 130 | 143) [ -z "$stopped" ] || exit "$stopped" ;; esac
    [ "$failed" -eq 0 ] || exit "$failed"
}

# A signal is lost on a child that has just been forked and still has this shell's traps.
tell_again() {
    [ -n "$stopped" ] || return 0
    sleep 0.1
    # shellcheck disable=SC2086 # a list
    [ -z "$children" ] || kill -TERM $children 2>/dev/null || :
}

# Run a command to its end.
run() {
    start "$@"
    finish
}

# Run a module in the caller's folder, so that the paths among its arguments mean what they mean there.
run_at_caller() {
    case $PYTHON in /*) ;; */*) PYTHON=$repository/$PYTHON ;; esac
    PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
    cd "$caller"
    run "$PYTHON" -m "$@"
}

# Run a module, in NPROC processes where that is more than one.
launch() {
    if [ "$NPROC" -gt 1 ]; then
        run "$PYTHON" -m src.train.launch "$NPROC" "$@"
    else
        run "$PYTHON" -m "$@"
    fi
}

# Find Kaggle's CSV of a split ("train" or "test"), stage 2 before stage 1: sets csv and stage.
find_csv() {
    case $1 in train) name=train ;; test) name=sample_submission ;; esac
    for stage in stage_2 stage_1; do
        csv=$ICH_ROOT/input/${stage}_$name.csv
        [ ! -f "$csv" ] || return 0
    done
    fail "$ICH_ROOT/input has no stage_2_$name.csv; put the competition's files there (README.md, The real job)"
}
