#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster, one process per GPU:
#
#   sbatch --nodes=1 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh \
#     --config=configs/score_math.py --workdir=/shared/run
#
# from the top of the repository, in whose .venv the package is installed
# (pip install -e '.[text,cuda]'); VENV names another environment. Give as many tasks
# as GPUs per node. JAX finds the other processes through Slurm. All nodes must
# see the workdir; gs:// works too.
#
#SBATCH --job-name=sitrain
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=1
#SBATCH --output=sitrain-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Two minutes before the time is up, so that there is time to save.
#SBATCH --signal=TERM@120
set -euo pipefail

if [ "$#" -eq 0 ]; then
  echo "sbatch launch/slurm.sh --config=... --workdir=...: no flags given" >&2
  exit 2
fi
python=${VENV:-.venv}/bin/python
if [ ! -x "$python" ]; then
  echo "$python is missing: pip install -e '.[text,cuda]' there, or set VENV" >&2
  exit 2
fi

# The batch shell ignores the signal; the tasks save and exit with code 75. The
# first task to exit must not kill the others while they save: they exit by
# themselves when one is gone.
trap : TERM
code=0
srun --kill-on-bad-exit=0 --wait=300 --label --unbuffered \
  "$python" -m sitrain.main "$@" || code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
