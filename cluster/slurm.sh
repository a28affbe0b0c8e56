#!/usr/bin/env bash
# One training on Slurm: a Ray cluster on the nodes of an allocation, behind its own token.
#
#   sbatch --nodes 2 --gpus-per-node 8 cluster/slurm.sh jobs/adamixer_swin.py --train.workers 16
#   sbatch --array 0-4 --gpus-per-node 8 cluster/slurm.sh jobs/adamixer_swin.py --train.seed TASK --train.workers 8
#
# Submit from the project folder, which all nodes must share, with .venv in it or Python on the PATH. TASK stands for
# the number of an array's task. The run is named slurm-JOB, or slurm-JOB_TASK, unless --store.run names it.
#
# Two minutes before the time limit, when Slurm takes the nodes away, and when a node or the head is lost, the job is
# queued again and resumes from its last checkpoint, which SIGTERM wrote where there was time; $QDET_REQUEUES times at
# most. scancel ends it, with a checkpoint too if that takes less than Slurm's KillWait: scancel --signal=TERM --batch
# has no such limit.
#SBATCH --job-name=qdet
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-$PWD}"
if [ -d .venv ]; then
  # shellcheck source=/dev/null
  . .venv/bin/activate
fi
cpus=${SLURM_CPUS_ON_NODE:?run this with sbatch}
gpus=${SLURM_GPUS_ON_NODE:-0}
task=${SLURM_ARRAY_TASK_ID:-}
port=${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))} # Ray's workers have those from 10002 to 19999
restarts=${SLURM_RESTART_COUNT:-0}
requeues=${QDET_REQUEUES:-50}
probe_seconds=2  # a head that does not answer is given up after three tries

# Reaching the port would mean running code here: a token in the shared folder that only this user can read.
umask 077
mkdir -p .qdet
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.qdet/slurm-$SLURM_JOB_ID.token"
python -c "import secrets; print(secrets.token_hex(32), end='')" >"$RAY_AUTH_TOKEN_PATH"
export QDET_ROOT="$PWD" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

# The job's command line, with a name by which it finds its checkpoints after a requeue.
command=("${@//TASK/$task}")
job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${task:+_$task}" # an array's last task has its number: that would mean all tasks
name="slurm-$job"
has() {
  case " ${command[*]} " in *" $1 "* | *" $1="*) ;; *) return 1 ;; esac
}
if has --sweep; then # the same command resumes a sweep
  has --store.run || command+=(--store.run "$name")
elif has --store.run; then
  has --store.resume || ((restarts == 0)) || command+=(--store.resume auto)
elif ! has --store.resume; then
  command+=(--store.run "$name" --store.resume auto)
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

started=()
driver=

# Whether scancel ended the job, which also ends the head, and may be noticed later than that. squeue shows all jobs that
# are ending alike, but names the limit as the reason where that is one.
cancelled() {
  [ "$(squeue --noheader --jobs="$job" --format='%T %r')" = "COMPLETING None" ]
}

# End the driver, with a checkpoint, and then Ray; again is why the job is queued again, or empty.
# shellcheck disable=SC2329  # called by traps
finish() {
  local code=$1 again=$2
  trap '' TERM INT USR1
  trap - EXIT
  if [ -n "$driver" ]; then
    kill -TERM "$driver" 2>/dev/null || true
    wait "$driver" || true
  fi
  kill "${started[@]}" 2>/dev/null || true
  wait || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
  if [ -n "$again" ] && ((restarts < requeues)) && ! cancelled; then
    echo "$again: queued again, restart $((restarts + 1)) of at most $requeues"
    scontrol requeue "$job" && sleep 60 # Slurm ends this script
  fi
  exit "$code"
}
trap 'finish 143 ""' TERM INT
trap 'finish 143 "the time limit is near"' USR1
trap 'finish $? ""' EXIT

answers() {
  timeout 2 bash -c "exec 3<>/dev/tcp/$address/$port" 2>/dev/null
}

# Return once the head's port has not answered three times in a row.
watch_head() {
  local missed=0
  while ((missed < 3)); do
    if answers; then missed=0; else missed=$((missed + 1)); fi
    sleep "$probe_seconds"
  done
}

resources=(--num-cpus "$cpus" --num-gpus "$gpus" --disable-usage-stats --block)
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 "${resources[@]}" &
head_step=$!
started+=("$head_step")
for node in "${nodes[@]:1}"; do
  # shellcheck disable=SC2016  # expanded on the other node
  srun --nodes=1 --ntasks=1 --nodelist="$node" --overlap bash -c '
    until (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; do sleep 1; done
    shift 2; exec ray start "$@"' _ "$address" "$port" --address="$address:$port" "${resources[@]}" &
  started+=($!)
done

for _ in $(seq 120); do
  if answers; then break; fi
  if ! kill -0 "$head_step" 2>/dev/null; then
    echo "the Ray head on $head did not start: its last lines say why"
    finish 1 ""
  fi
  sleep 1
done
# The job waits until all nodes have joined.
python "${command[@]}" --ray-address "$address:$port" --ray-wait 300 &
driver=$!
watch_head &
watch=$!
started+=("$watch")

code=0
wait -n -p ended "$driver" "$head_step" "$watch" || code=$?
if [ "$ended" != "$driver" ]; then
  echo "the Ray head on $head is gone"
  finish 75 "the head was lost"
fi
driver=
finish "$code" ""
