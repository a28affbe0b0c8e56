#!/usr/bin/env bash
# One training on Slurm: a Ray cluster on the nodes of an allocation, behind its own token.
#
#   sbatch --nodes 2 --gpus-per-node 8 cluster/slurm.sh jobs/adamixer_swin.py --train.workers 16
#
# Submit from the project folder, which all nodes must share, with .venv in it or Python on the PATH.
# To resume after a requeue or time limit: the same command with `--store.resume RUN`.
#SBATCH --job-name=qdet
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@60
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-$PWD}"
[ -d .venv ] && . .venv/bin/activate
port=${RAY_PORT:-6379}
cpus=${SLURM_CPUS_ON_NODE:?run this with sbatch}
gpus=${SLURM_GPUS_ON_NODE:-0}

# Reaching the port would mean running code here: a token in the shared folder that only this user can read.
umask 077
mkdir -p .qdet
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$PWD/.qdet/slurm-$SLURM_JOB_ID.token"
python -c "import secrets; print(secrets.token_hex(32), end='')" > "$RAY_AUTH_TOKEN_PATH"
export QDET_ROOT="$PWD" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')

started=()
driver=
finish() {
  trap - EXIT TERM INT
  [ -n "$driver" ] && kill -TERM "$driver" 2>/dev/null && wait "$driver" || true
  kill "${started[@]}" 2>/dev/null || true
  wait || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap 'finish; exit 143' TERM INT
trap finish EXIT

resources=(--num-cpus "$cpus" --num-gpus "$gpus" --disable-usage-stats --block)
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  ray start --head --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 "${resources[@]}" &
started+=($!)
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$node" --overlap bash -c '
    until (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; do sleep 1; done
    shift 2; exec ray start "$@"' _ "$address" "$port" --address="$address:$port" "${resources[@]}" &
  started+=($!)
done

for _ in $(seq 120); do
  (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null && break
  sleep 1
done
# The job waits until all nodes have joined.
python "$@" --ray-address "$address:$port" --ray-wait 300 &
driver=$!
code=0
wait "$driver" || code=$?
driver=
exit "$code"
