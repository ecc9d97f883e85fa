#!/bin/bash
# One audit over the tasks of a Slurm job array.
#
#   ckptaudit plan --base BASE --tuned TUNED -o plan.json
#   job=$(sbatch --parsable slurm-array.sh plan.json)
#   sbatch --dependency=afterany:$job --wrap \
#     'ckptaudit collect plan.json parts/part-*.parquet --audit-json audit.json --junitxml audit.xml'
#
# afterany: a task that failed leaves no part, and what it was to measure then "could not be judged". To measure such
# a task again, `sbatch --array=3 slurm-array.sh plan.json`, and collect once more.
#
# Shards are counted from 0: of --array=1-8 each task would measure shard $((SLURM_ARRAY_TASK_ID - 1)).
#SBATCH --job-name=ckptaudit
#SBATCH --array=0-7
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=04:00:00
set -euo pipefail

shards=8 # as many as --array has numbers, from 0
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
mkdir -p parts
exec ckptaudit measure "${1:-plan.json}" --shard "$SLURM_ARRAY_TASK_ID/$shards" \
  -o "parts/part-$SLURM_ARRAY_TASK_ID.parquet"
