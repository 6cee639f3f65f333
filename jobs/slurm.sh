#!/usr/bin/env bash
# One launch in one Slurm allocation: Ray on its nodes, the driver on the first.
#
#   sbatch jobs/slurm.sh --space all          what follows the script goes to ablate.launch
#
# Preempted or out of time, the launch ends in order within 30 s and the job is queued again; the same command then
# reuses and continues. Needs ABLATE_STORAGE (a folder all nodes mount), and MLFLOW_TRACKING_URI of a server (login in
# ~/.mlflow/credentials, 0600). Ray listens on the allocation's nodes; its dashboard on the first one's loopback:
#   ssh -L 8265:127.0.0.1:8265 -J LOGIN_NODE FIRST_NODE
#SBATCH --job-name=ablate
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ablate-%j.log
set -euo pipefail

: "${ABLATE_STORAGE:?the folder for checkpoints and records, mounted on every node}"
: "${MLFLOW_TRACKING_URI:?the MLflow server; SQLite on a network drive loses data}"
venv=${ABLATE_VENV:-$HOME/ablate-venv} # pip install -r jobs/requirements.txt . into it: ray==2.60.0, mlflow==3.17.2
export PATH="$venv/bin:$PATH"

# A token of this job's own, in a file only its owner reads; srun's tasks see it through the shared home folder.
umask 077
mkdir -p "$HOME/.ray"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/token-$SLURM_JOB_ID"
python -c "import secrets; print(secrets.token_hex(32))" > "$RAY_AUTH_TOKEN_PATH"
chmod 600 "$RAY_AUTH_TOKEN_PATH"

export RAY_USAGE_STATS_ENABLED=0
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3

# Processes that share a GPU (--gpus-per-trial 0.25) only take turns on it, unless MPS merges their work. ABLATE_MPS=no
# where the site forbids it, yes for --gpus-per-trial auto. The daemon is of this job and this user, and ends with it.
mps=${ABLATE_MPS:-} share="" previous=""
for argument; do
  [ "$previous" = --gpus-per-trial ] && share=$argument
  [ "${argument#--gpus-per-trial=}" = "$argument" ] || share=${argument#*=}
  previous=$argument
done
case $mps/$share in /0.* | /.*) mps=yes ;; esac
with_mps=()
if [ "$mps" = yes ]; then
  export CUDA_MPS_PIPE_DIRECTORY="/tmp/mps-$SLURM_JOB_ID" CUDA_MPS_LOG_DIRECTORY="/tmp/mps-$SLURM_JOB_ID/log"
  # Around a node's Ray, in its job step: Slurm ends what a step leaves behind. Of all the step's GPUs, so that daemon and
  # Ray number them alike.
  with_mps=(bash -c '
    folder=$CUDA_MPS_PIPE_DIRECTORY daemon=1
    mkdir -p "$CUDA_MPS_LOG_DIRECTORY"
    env -u CUDA_VISIBLE_DEVICES nvidia-cuda-mps-control -d || daemon=0
    if [ "$daemon" = 0 ]; then
      echo "no MPS on $(hostname): processes that share a GPU take turns on it" >&2
      unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    fi
    trap "kill \$! 2> /dev/null" TERM
    "$@" &
    while kill -0 $! 2> /dev/null; do
      code=0
      wait $! || code=$?
    done
    [ "$daemon" = 0 ] || echo quit | nvidia-cuda-mps-control
    rm -rf "$folder"
    exit "$code"' mps)
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # another job's Ray may be on this node where --exclusive is not honoured
export RAY_ADDRESS="$head_ip:$port"

cleanup() {
  kill "${ray_pids[@]}" 2> /dev/null || true # srun passes it on: these nodes, this job, nobody else's Ray
  if [ "$mps" = yes ]; then # time for the daemons to end in order, before Slurm ends what is left
    for _ in {1..20}; do
      kill -0 "${ray_pids[@]}" 2> /dev/null || break
      sleep 1
    done
  fi
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
ray_pids=()
trap cleanup EXIT

start() { # NODE ARGUMENTS...: Ray on one node, in the foreground of its own job step
  local node=$1 again=()
  shift
  # A node that was cut off for longer than the head waits ends its Ray: it starts again, and joins. A head does not.
  [ "$1" = --head ] || again=(bash -c 'until "$@"; do sleep 5; done' again)
  srun --nodes=1 --ntasks=1 --overlap --nodelist="$node" --gpus-per-node="${SLURM_GPUS_PER_NODE:-0}" \
    ${with_mps[@]+"${with_mps[@]}"} ${again[@]+"${again[@]}"} \
    ray start --block --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --temp-dir="/tmp/ray-$SLURM_JOB_ID" "$@" \
    > "ray-$SLURM_JOB_ID-$node.log" 2>&1 &
  ray_pids+=($!)
}
start "$head" --head --node-ip-address="$head_ip" --port="$port" --dashboard-host=127.0.0.1
for _ in {1..120}; do
  ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1 && break
  kill -0 "${ray_pids[0]}" 2> /dev/null || break
  sleep 1
done
if ! ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1; then
  echo "expected Ray's head at $RAY_ADDRESS within two minutes, got none; see ray-$SLURM_JOB_ID-$head.log" >&2
  exit 1
fi
for node in "${nodes[@]:1}"; do
  start "$node" --address "$RAY_ADDRESS"
done
python - "${#nodes[@]}" << 'PYTHON'
import sys, time, ray
ray.init(logging_level="ERROR")
wanted, patience_s = int(sys.argv[1]), 300
while (there := sum(node["Alive"] for node in ray.nodes())) < wanted and patience_s > 0:
    time.sleep(1)
    patience_s -= 1
if there < wanted: # one that comes later joins, and gets trainings
    print(f"going on with {there} of {wanted} nodes; see ray-*.log of the others", file=sys.stderr)
PYTHON

preempted=0
python -m ablate.launch --storage "$ABLATE_STORAGE" "$@" &
driver=$!
trap 'preempted=1; kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
while kill -0 "$driver" 2> /dev/null; do # the first wait ends at the signal, not at the driver's end
  code=0
  wait "$driver" || code=$?
done
if [ "$preempted" = 1 ] && [ "$code" = 130 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
