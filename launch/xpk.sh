#!/usr/bin/env bash
# Trains on the TPUs of a GKE cluster that `xpk cluster create` has made:
#
#   launch/xpk.sh --workload=score-math --cluster=mine --tpu-type=v5p-16 \
#     --docker-image=us-docker.pkg.dev/project/repository/sitrain:1 -- \
#     --config=configs/score_math.py --workdir=gs://bucket/run
#
# Before the -- stand flags of `xpk workload create` (--dry-run shows what it
# would do), after it those of sitrain.main. The image is that of
# launch/Dockerfile. A job is started again after a preemption, and after the
# exit code for one.
set -euo pipefail
cd "$(dirname "$0")/.."

type="" slices=1 flags=()
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --tpu-type=*) type=${1#*=} ;;
    --num-slices=*) slices=${1#*=} ;;
    --tpu-type | --num-slices)
      echo "error: $1 $2: write $1=$2" >&2
      exit 2
      ;;
  esac
  flags+=("$1")
  shift
done
if [ "$#" -lt 2 ] || [ -z "$type" ]; then
  echo "launch/xpk.sh --workload=... --cluster=... --tpu-type=..." \
    "--docker-image=... -- --config=... --workdir=...: flags are missing" >&2
  exit 2
fi
shift

# What a process runs; in one line, why it could not begin on such slices.
command=$("${PYTHON:-python}" -m launch.fit \
  --type="$type" --slices="$slices" "$@")
# xpk runs it in a subshell; with exec, signals reach the run itself.
exec xpk workload create --max-restarts=50 --restart-on-exit-codes=75 \
  --termination-grace-period-seconds=120 "${flags[@]}" --command="exec $command"
