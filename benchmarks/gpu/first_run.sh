#!/usr/bin/env bash
# First run of ablate on one H100/H200: is it right, how fast is it, and as much of the paper as fits into ONE command.
#
# For a GPU machine that is bare, offline, and at hand for a quarter of an hour only. In the project's root:
#   echo /.gpu/ >> .git/info/exclude; mkdir -p .gpu
#   cp benchmarks/gpu/first_run.sh cifar10-60k-jpeg.tar.xz .gpu/       # the images as a packed image folder (or DATA=<folder>)
#   # a machine with PyTorch and torchvision may lack pydantic and torchattacks (typer, rich, PyYAML, scipy, Pillow, pyarrow too):
#   python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .gpu \
#     pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection typing-extensions torchattacks==3.5.1
# There, in the same checkout: OUT=<empty folder> bash .gpu/first_run.sh       (575 s at most; LIMIT=... for another limit)
# Elsewhere than in the project: git archive --prefix=ablate-src/ HEAD of the project, unpacked beside this script.
# Steps, each under its own limit, each result written as soon as it is there: a later one that hangs costs no earlier one.
#   1 check.py  130 s  GPU float32 against CPU float64; compiled and captured against eager   -> $OUT/check.json
#   2 speed.py  150 s  steps per second as they are, as graphs, and K networks at once       -> speed.json
#   3 launches  rest   frequency + lowpass (one shared training, as many epochs as fit) beside one more row   -> records.tgz
# Home come at most 7 files: env.txt check.json speed.json launch.log check.log records.tgz checkpoints.tgz (< 16 MiB each).
# Rehearse without a GPU (EAGER=1: nothing compiled):
#   DEVICE=cpu TINY=1 EAGER=1 LIMIT=300 OUT=<folder> PYTHON=.venv/bin/python DATA=<imagefolder> bash benchmarks/gpu/first_run.sh
# It reaches into modules (ablate.learning.training.TrainingRun, ablate.bench.*) and moves with them: this file counts, copies
# of it elsewhere may be older. tests/benchmarks/test_first_run.py rehearses it.
set -u
began=$(date +%s)
here=$(cd "$(dirname "$0")" && pwd)
export OUT=${OUT:?} DEVICE=${DEVICE:-cuda} TINY=${TINY:-} EAGER=${EAGER:-}
LIMIT=${LIMIT:-575}                       # of the whole script, below timeout_s
PYTHON=${PYTHON:-python3}
OUT=$(realpath "$OUT"); [ -z "${DATA:-}" ] || DATA=$(realpath "$DATA")      # steps run in a folder of their own
case $PYTHON in */*) PYTHON=$(realpath -s "$PYTHON");; esac                 # an environment's python is a link: kept as one
left() { echo $(( LIMIT - ($(date +%s) - began) )); }
export PYTHONUNBUFFERED=1 HOME=${HOME:-/root}
W=$(mktemp -d "${TMPDIR:-/tmp}/first.XXXX"); export W
SRC=$PWD; [ -d "$SRC/ablate" ] || SRC=$here/ablate-src; [ -d "$SRC/ablate" ] || { echo "no ablate here"; exit 2; }
mkdir -p "$W/site"
for wheel in "$here"/*.whl; do [ -f "$wheel" ] && $PYTHON -m zipfile -e "$wheel" "$W/site"; done
export PYTHONPATH=$SRC:$W/site
$PYTHON -c "import torch, torchvision, pydantic, typer, yaml, rich; import ablate.launch" || { echo "a package is missing: give the machine back"; exit 2; }
export TORCHINDUCTOR_CACHE_DIR=$W/inductor   # one cache: step 3 meets what steps 1 and 2 have compiled

# 0: what the machine is; the data unpack meanwhile
{ date -u; nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,power.draw,mig.mode.current --format=csv
  $PYTHON -c 'import torch, torchvision, sys; print(sys.version, torch.__version__, torchvision.__version__, torch.backends.cudnn.version(), torch.cuda.device_count())'
  nproc; free -g | head -2; git -C "$SRC" rev-parse HEAD; } > "$OUT/env.txt" 2>&1
if [ -z "${DATA:-}" ]; then
  for archive in "$here" "$PWD"; do
    [ -f "$archive/cifar10-60k-jpeg.tar.xz" ] && { (cd "$W" && tar -xJf "$archive/cifar10-60k-jpeg.tar.xz"; touch "$W/unpacked") & break; }
  done
  DATA=$W/cifar10-60k-jpeg
else touch "$W/unpacked"; fi

cat > "$W/common.py" <<'PY'
import json, os, statistics, sys, time, torch
from ablate.core import randomness
from ablate.learning.training import TrainingRun, convolutions_in
from ablate.bench.cases import random_dataset
from ablate.spaces.specs import TrialSpec
dev = torch.device(os.environ["DEVICE"]); TINY, EAGER = bool(os.environ.get("TINY")), bool(os.environ.get("EAGER")); GPU = dev.type == "cuda"
def sync():
    if GPU: torch.cuda.synchronize()
class Report(dict):                       # written after every entry
    def __init__(self, name): self.path = os.path.join(os.environ["OUT"], name); super().__init__()
    def put(self, key, make):
        if EAGER and any(w in key for w in ("compile", "at once")): return
        t = time.perf_counter()
        try: self[key] = make()
        except Exception as e: self[key] = {"FAILED": f"{type(e).__name__}: {str(e)[:600]}"}
        print(f"{key}: {self[key]} [{time.perf_counter() - t:.1f} s]", flush=True)
        with open(self.path, "w") as f: json.dump(self, f, indent=1)
def spec_of(batch, precision="float32", compile=False, quant=None, arch="resnet20", attack="pgd"):
    return TrialSpec.model_validate({"model": {"arch": arch, "quantization": quant or {}}, "training": {
        "batch_size": batch, "precision": precision, "compile": compile, "attack": {"name": attack}}})
def stepping(run, graphs=True):           # as the training's loop: from the third step on as one graph, where there is a GPU
    if not graphs: run.graphs = None
    stream, index = torch.cuda.Stream() if GPU else None, torch.arange(run.training.batch_size, device=dev)
    run.set_learning_rate(1)
    def step(i):
        with torch.cuda.stream(stream), convolutions_in(run.training.precision): return run.update(1, i, index)[0]
    return step
PY

cat > "$W/check.py" <<'PY'
from common import *
from ablate.attacks import PGD
from ablate.learning.augmentation import crop_and_flip; from ablate.learning.draws import Draws
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured, fold_normalization
from torch._dynamo.utils import counters
torch.backends.cudnn.allow_tf32 = False   # as a worker
R = Report("check.json"); N = 8 if TINY else 64
data = random_dataset(max(N, 128)); pixels = torch.from_numpy(data.train_images[:N]); labels = torch.from_numpy(data.train_labels[:N])
rel = lambda a, b: ((a.detach().double().cpu() - b.detach().double().cpu()).norm() / b.detach().double().cpu().norm()).item()
def random_bits():
    key = randomness.stream(1, "check")
    same = torch.equal(randomness.bits(key, torch.arange(N), (3, 32, 32)), randomness.bits(key, torch.arange(N, device=dev), (3, 32, 32)).cpu())
    return {"bits equal": same, "order equal": torch.equal(randomness.permutation(key, 50000), randomness.permutation(key, 50000, dev).cpu())}
R.put("random numbers, GPU == CPU", random_bits)
def agreement(arch, quant):
    exact = build_network(spec_of(64, arch=arch, quant=quant).model, 10, 32, 0).eval()
    ours = build_network(spec_of(64, arch=arch, quant=quant).model, 10, 32, 0).eval().to(dev, memory_format=torch.channels_last)
    x64 = (pixels.double() / 255).requires_grad_(); x = (pixels.float() / 255).to(dev).contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = exact.double()
    def out(net, x, y):
        logits = net(x); (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y, reduction="sum"), x); return logits, g
    l64, g64 = out(exact, x64, labels); found = {}
    with frozen_parameters(ours):
        folded = fold_normalization(ours, 32)
        for name, net in (("network", ours), ("folded", folded)):
            if net is None: found[name] = "not folded"; continue
            l, g = out(net, x, labels.to(dev)); found[name] = {"logits": rel(l, l64), "gradient": rel(g, g64), "signs": (g.sign().cpu() == g64.sign()).double().mean().item()}
        if not quant:
            attack, y, at = PGD(steps=7), labels, torch.arange(N)
            a64 = attack.perturb(exact, x64.detach(), y, index=at, seed=0); a = attack.perturb(as_measured(ours, 32), x.detach(), y.to(dev), index=at.to(dev), seed=0)
            found["pgd7 pixels equal"] = ((a.cpu().double() - a64).abs() < 1e-5).double().mean().item()
            with torch.no_grad(): found["pgd7 verdicts equal"] = (ours(a).argmax(1).cpu() == exact(a64).argmax(1)).double().mean().item()
    return found
for arch, quant in (("resnet20", None), ("resnet20", {"bits": 4, "fat": True}), ("mobilenet_v2", None)):
    R.put(f"{arch} {quant or ''}: float32 against float64 (want logits < 1e-4, gradient < 1e-3; quantized may jump a level)", lambda: agreement(arch, quant))
def update():                             # a natural step: no sign flips, so the update must agree to rounding
    run = TrainingRun(spec_of(N, attack="none"), random_dataset(N), dev); before = {k: v.detach().clone() for k, v in run.network.named_parameters()}
    run.step(run.images, run.labels, Draws(0, 1, 0, N, dev))
    x = crop_and_flip(pixels, Draws(0, 1, 0, N, torch.device("cpu")), padding=4, flip=True)
    def wanted(dtype):
        net = build_network(run.spec.model, 10, 32, 0).to(dtype).train()
        torch.nn.functional.cross_entropy(net(x.to(dtype) / 255), labels).backward()
        return {k: -0.1 * (p.grad + 5e-4 * p.detach()) for k, p in net.named_parameters()}
    want, own = wanted(torch.float64), wanted(torch.float32)
    got = {k: v.detach() - before[k] for k, v in run.network.named_parameters()}
    flat = lambda d: torch.cat([d[k].detach().double().cpu().flatten() for k in want])
    return {"ours": rel(flat(got), flat(want)), "a CPU's float32": rel(flat(own), flat(want)), "ours to the CPU's": rel(flat(got), flat(own)), "logit layer": rel(got["linear.weight"], want["linear.weight"])}
R.put("one natural update against float64 (want: ours about a CPU's float32, where a ReLU or two flips: 1e-2; logit layer < 1e-4)", update)
B, STEPS = (4, 2) if TINY else (128, 8)
def losses(precision, how, quant=None):
    warned = []
    run = TrainingRun(spec_of(B, precision, "compiled" in how, quant), random_dataset(B), dev, warned.append)
    step = stepping(run, "graphs" in how)
    return {"losses": [step(i).item() for i in range(STEPS)], "warned": warned, "stats": dict(counters["stats"])}
FAT = {"bits": 4, "fat": True}
hows = [(p, h, q) for p in ("float32", "bfloat16") for q in (None, FAT) for h in ("as it is", "graphs")] + [("bfloat16", "compiled, graphs", None)]
for precision, how, quant in hows:        # every list of one precision and network must begin alike and stay close
    counters.clear(); torch.compiler.reset()
    R.put(f"losses {precision} {'4 bits FAT ' if quant else ''}{how}", lambda: losses(precision, how, quant))
PY

cat > "$W/speed.py" <<'PY'
from common import *
from ablate.bench import textbook
from ablate.bench.machine import matmul_peak
from ablate.learning.models import build_network
R = Report("speed.json"); LONG = 0.05 if TINY else 0.5
def sustained(step, batch):               # images/s over a steady stream of steps, not of single ones; median of 3
    for i in range(1 if TINY else 4): step(i)
    sync(); rates = []
    for _ in range(3):
        began, n = time.perf_counter(), 0
        while n < 2 or time.perf_counter() - began < LONG:
            for _ in range(1 if TINY else 10): step(n); n += 1
            sync()
        rates.append(n * batch / (time.perf_counter() - began))
    return round(statistics.median(rates), 1)
def flags(tf32, benchmark=False): torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark
def theirs(whose, batch):
    data = random_dataset(batch); x = torch.from_numpy(data.train_images).to(dev).float() / 255; y = torch.from_numpy(data.train_labels).to(dev)
    net = build_network(spec_of(batch).model, 10, 32, 0).to(dev); opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    step = textbook.training_step(net, opt, textbook.pgds()[whose](net, 7)); return lambda i: step(x, y)
def ours(batch, precision, compile=False, graphs=True):
    return stepping(TrainingRun(spec_of(batch, precision, compile), random_dataset(batch), dev), graphs)
def copy_rate():
    a = torch.rand(2**28 if GPU else 2**22, device=dev); b = torch.empty_like(a); s = sustained(lambda i: b.copy_(a), 1); return s * 8 * a.numel() / 1e12
R.put("TB/s copied", copy_rate)
R.put("TFLOP/s of a matrix product, bfloat16", lambda: matmul_peak(dev, torch.bfloat16) / 1e12)
for batch in ((4,) if TINY else (128, 512)):
    for whose in textbook.pgds():
        flags(True); R.put(f"{batch} {whose}, torch's own defaults (TF32 convolutions)", lambda: sustained(theirs(whose, batch), batch))
        flags(False); R.put(f"{batch} {whose}, IEEE float32 (as ablate.bench times it)", lambda: sustained(theirs(whose, batch), batch))
    for precision in ("float32", "tf32", "bfloat16"):
        for graphs in (False, True):
            R.put(f"{batch} ours {precision}{'' if graphs else ', as it is'}", lambda: sustained(ours(batch, precision, graphs=graphs), batch))
    torch.compiler.reset(); R.put(f"{batch} ours bfloat16+compile", lambda: sustained(ours(batch, "bfloat16", True), batch))
def together(count, batch):               # several networks in one process, a stream and a graph each
    steps = [ours(batch, "bfloat16") for _ in range(count)]
    def step(i):
        for one in steps: one(i)
    return sustained(step, batch * count)
for count, batch in (((2, 4),) if TINY else ((4, 128), (8, 128), (4, 32))):
    R.put(f"{count} networks at once, batch {batch}, a stream each: images/s of all", lambda: together(count, batch))
if GPU: R.put("memory reserved at most, GB", lambda: torch.cuda.max_memory_reserved() / 1e9)
PY

run() { local s=$1 l; shift; l=$(left); [ "$l" -lt "$s" ] && s=$l; timeout -k 5 "$s" "$@"; local c=$?; echo "== $* : exit $c, $(left) s left"; return $c; }
cd "$W"
TORCH_LOGS="recompiles" run "${CHECK_S:-130}" $PYTHON check.py > "$OUT/check.log" 2>&1; grep -E '^[a-z0-9]' "$OUT/check.log" | cut -c1-400 | tail -20
tail -c 3000000 "$OUT/check.log" > "$W/t" && mv "$W/t" "$OUT/check.log"
run "${SPEED_S:-150}" $PYTHON speed.py 2>> "$OUT/check.log"

# 3: train. Compiled only if step 1 saw the compiled losses (it may have failed where nobody has ever run it).
while [ ! -f "$W/unpacked" ] && [ "$(left)" -gt 60 ]; do sleep 1; done
COMPILE=$($PYTHON - <<'PY'
import json, os
try: r = json.load(open(os.environ["OUT"] + "/check.json")); e, c = r["losses bfloat16 as it is"]["losses"], r["losses bfloat16 compiled, graphs"]["losses"]
except Exception: print("false")
else: print("true" if abs(e[0] - c[0]) < 0.02 * e[0] and abs(e[-1] - c[-1]) < 0.2 * e[-1] else "false")
PY
)
# As many epochs (with the paper's schedule scaled to them) as the measured speed lets finish, measuring included.
EPOCHS=${EPOCHS:-$(LEFT=$(left) COMPILE=$COMPILE $PYTHON - <<'PY'
import json, os
try: r = json.load(open(os.environ["OUT"] + "/speed.json"))["512 ours bfloat16" + ("+compile" if os.environ["COMPILE"] == "true" else "")]
except Exception: r = 8000.0
budget = float(os.environ["LEFT"]) - 20 - 110          # packing, decoding, compiling and measuring
print(next((e for e in (120, 60, 40, 30, 20, 10) if e * 50000 * 1.25 / r < 0.6 * budget), 5))   # 0.6: two processes share the GPU
PY
)}
echo "== training $EPOCHS epochs with compile=$COMPILE"
TRAIN="--local --no-tracking --yes --storage $W/storage --set data.name=imagefolder --set data.root=$DATA
  --set training.precision=bfloat16 --set training.compile=$COMPILE --set training.epochs=$EPOCHS ${EXTRA:-}"
LABEL="data.label=CIFAR-10, JPEG quality 75"      # never to be taken for CIFAR-10
stop=$(( $(left) - 20 )); [ "$stop" -lt 5 ] && stop=5
pids=""
for what in "--space frequency --space lowpass" "--space batch_size --row 128"; do     # two processes share the GPU
  # SIGTERM ends a launch in order: finished epochs and records stay.
  (timeout -k 15 "$stop" $PYTHON -m ablate.launch $what $TRAIN --set "$LABEL" 2>&1 | sed "s/^/[${what##* }] /" >> "$OUT/launch.log") & pids="$pids $!"
done
wait $pids
tail -n 45 "$OUT/launch.log"
# 4: home. Records are small; of checkpoints the newest of each training, for figures and for going on here.
tar -C "$W" --exclude 'checkpoint-*' -czf "$OUT/records.tgz" storage 2>/dev/null
(cd "$W" && find storage -name 'checkpoint-*' -printf '%h %T@ %p\n' 2>/dev/null | sort -k1,1 -k2,2nr | awk '!seen[$1]++ {print $3}' | tar -czf "$OUT/checkpoints.tgz" -T -)
for file in "$OUT"/*; do [ "$(stat -c %s "$file")" -gt 16000000 ] && { echo "too large: $file"; rm "$file"; }; done
ls -la "$OUT"; $PYTHON - <<'PY'
import json, os
for name in ("check", "speed"):
    try: [print(f"{k}: {str(v)[:220]}") for k, v in json.load(open(f"{os.environ['OUT']}/{name}.json")).items()]
    except Exception as e: print(name, e)
PY
echo "== done, $(left) s left"
