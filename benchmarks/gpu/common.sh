# What the scripts beside this one share: sourced, not run. A bare machine without a network, with PyTorch and torchvision.
#
# .gpu/ in the project's root (or BROUGHT=<folder>), or the folder of the scripts, may hold
#   *.whl                     what the machine's Python lacks (pydantic and its kin, torchattacks; see first_run.sh)
#   cifar10-60k-jpeg.tar.xz   the images as a packed image folder; or DATA=<folder>
#   home.tgz.*                what an earlier run brought home: its storage is gone on with
# OUT=<empty folder> gets at most 8 files of 16 MB: env.txt, logs, tables, and home.tgz.00 to .05, one archive in pieces:
#   cat home.tgz.* | tar -xz                  -> storage/
began=$(date +%s)
export OUT=${OUT:?an empty folder} DEVICE=${DEVICE:-cuda} TINY=${TINY:-} EAGER=${EAGER:-}
PYTHON=${PYTHON:-python3}
OUT=$(realpath "$OUT"); [ -z "${DATA:-}" ] || DATA=$(realpath "$DATA")      # steps run in a folder of their own
case $PYTHON in */*) PYTHON=$(realpath -s "$PYTHON");; esac                 # an environment's python is a link: kept as one
left() { echo $(( LIMIT - ($(date +%s) - began) )); }
export PYTHONUNBUFFERED=1 HOME=${HOME:-/root}
W=$(mktemp -d "${TMPDIR:-/tmp}/gpu.XXXX"); export W
SRC=$PWD; [ -d "$SRC/ablate" ] || SRC=$here/ablate-src; [ -d "$SRC/ablate" ] || { echo "no ablate here"; exit 2; }
PLACES=("${BROUGHT:-$PWD/.gpu}" "$here")
mkdir -p "$W/site"
for folder in "${PLACES[@]}"; do
  for wheel in "$folder"/*.whl; do [ -f "$wheel" ] && $PYTHON -m zipfile -e "$wheel" "$W/site"; done
done
export PYTHONPATH=$SRC:$W/site
$PYTHON -c "import sys, torch, torchvision, pydantic, typer, yaml, rich; import ablate.launch
print(sys.version, torch.__version__, torchvision.__version__, torch.backends.cudnn.version(), torch.cuda.device_count())" > "$OUT/env.txt" || { echo "a package is missing: give the machine back"; exit 2; }
export TORCHINDUCTOR_CACHE_DIR=$W/inductor   # one cache: a later step meets what earlier ones have compiled

# What the machine is; images and the storage brought along unpack meanwhile.
{ date -u; nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,power.draw,mig.mode.current --format=csv
  nproc; free -g | head -2; git -C "$SRC" rev-parse HEAD; } >> "$OUT/env.txt" 2>&1
for folder in "${PLACES[@]}"; do
  if [ -f "$folder/home.tgz.00" ]; then cat "$folder"/home.tgz.* | tar -C "$W" -xz || echo "home.tgz.* cut short: gone on with what is whole"; break; fi
done
if [ -z "${DATA:-}" ]; then
  DATA=$W/cifar10-60k-jpeg
  for folder in "${PLACES[@]}" "$PWD"; do
    [ -f "$folder/cifar10-60k-jpeg.tar.xz" ] && { (tar -C "$W" -xJf "$folder/cifar10-60k-jpeg.tar.xz"; touch "$W/unpacked") & break; }
  done
else touch "$W/unpacked"; fi
images() { while [ ! -f "$W/unpacked" ] && [ "$(left)" -gt 60 ]; do sleep 1; done; }

# run SECONDS COMMAND...: under a limit of its own, and the script's.
run() { local s=$1 l; shift; l=$(left); [ "$l" -lt "$s" ] && s=$l; [ "$s" -lt 5 ] && s=5; timeout -k 15 "$s" "$@"; local c=$?; echo "== ${*:1:5} : exit $c, $(left) s left"; return $c; }

# launch SECONDS OPTIONS...: SIGTERM ends a launch in order, so that finished epochs and records stay.
LABEL="data.label=CIFAR-10, JPEG quality 75"      # never to be taken for CIFAR-10
launch() {
  local s=$1; shift
  run "$s" $PYTHON -m ablate.launch --local --no-tracking --yes --storage "$W/storage" --set data.name=imagefolder \
    --set "data.root=$DATA" --set "$LABEL" "$@" >> "$OUT/launch.log" 2>&1
}

# Records first, then of each training the checkpoint to go on from.
bring_home() { $PYTHON "$here/home.py" "$W/storage" "$OUT"; ls -la "$OUT"; }
