#!/usr/bin/env bash
# An instalment of the paper's own schedule, on a GPU machine that is at hand for a quarter of an hour: what an earlier one
# left unfinished goes on, in order of value; before the limit all stops in order, and comes home.
#
# Before, in the project's root (as for first_run.sh: wheels and images in .gpu/):  cp <last OUT>/home.tgz.* .gpu/
# There, in the same checkout:   OUT=<empty folder> bash benchmarks/gpu/instalment.sh [--max-seconds 575]
# After:                         cat <OUT>/home.tgz.* | tar -xz; python -m ablate.report --sync
# The same command with what came home is the next instalment, until it says that all is done.
#
# TOGETHER=4 trainings of one shape share a process; auto goes by what first_run.sh measured, for the networks it measured.
# EXTRA="--set training.compile=true" for more options of every launch; PARTS for other parts, one a line.
set -u
here=$(cd "$(dirname "$0")" && pwd)
LIMIT=575
while [ $# -gt 0 ]; do
  case $1 in
    --max-seconds) LIMIT=${2:-}; shift 2 || shift ;;
    --max-seconds=*) LIMIT=${1#*=}; shift ;;
    *) echo "expected --max-seconds N, got $1"; exit 2 ;;
  esac
done
case $LIMIT in '' | *[!0-9]*) echo "--max-seconds: expected a whole number, got '$LIMIT'"; exit 2 ;; esac
. "$here/common.sh"

# The baseline with Table 1 and Figures 2 to 6, Table 2, Table 5, Table 3, Table 4's small networks.
PARTS=${PARTS:-"--space lowpass --space frequency --seeds 0-2
--space batch_size --seeds 0
--space bit_width --seeds 0
--space augmentation --seeds 0
--space architecture --row MobileNet-V2 --row EfficientNet --seeds 0"}
HOMEWARD=${HOMEWARD:-45}      # seconds that a launch's end and the packing take at most
LEAST=${LEAST:-30}            # of a launch that is worth its start

images
state=done
while read -r part; do
  [ -n "$part" ] || continue
  spare=$(( $(left) - HOMEWARD ))
  if [ "$spare" -lt "$LEAST" ]; then state="out of time before: $part"; break; fi
  echo "== $part" | tee -a "$OUT/launch.log"
  # shellcheck disable=SC2086  # options are words
  launch "$spare" $part --set training.precision=bfloat16 --trials-per-process "${TOGETHER:-4}" ${EXTRA:-} < /dev/null
  code=$?
  # 124, 130, 137: its time was over. What failed or was refused keeps nothing else from being trained.
  case $code in
    0) ;;
    124 | 130 | 137) state="out of time in: $part"; break ;;
    *) state="not all there" ;;
  esac
done <<< "$PARTS"
tail -n 30 "$OUT/launch.log"
bring_home
echo "== $state, $(left) s left" | tee -a "$OUT/env.txt"
