#!/bin/bash
# One run on several nodes, a process a GPU:
#
#     sbatch launch/slurm.sh --config=gpt2:small --workdir=/shared/runs/small --config.mesh.fsdp=8
#
# The nodes share the checkout, its .venv and the run folder. Set the numbers to your cluster's.
#SBATCH --job-name=transformers-from-scratch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
# All GPUs of a node for each of its tasks: JAX takes the one of its own number. With
# --gpus-per-task a task sees one GPU alone, which JAX then looks for under a number that it lacks.
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# SIGTERM to every process two minutes before the end: the run saves, and is queued again.
#SBATCH --signal=TERM@120
#SBATCH --requeue

set -eu
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
# A job that is queued again goes on where it was saved; 143 is a run that has saved on SIGTERM.
code=0
srun --kill-on-bad-exit=0 .venv/bin/python main.py --config.checkpoint.resume=true "$@" || code=$?
if [ "$code" = 143 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
