#!/usr/bin/env bash
# First run of ablate on one H100/H200: is it right, how fast is it, and as much of the paper as fits into ONE command.
#
# For a GPU machine that is bare, offline, and at hand for a quarter of an hour only. In the project's root:
#   echo /.gpu/ >> .git/info/exclude; mkdir -p .gpu
#   cp cifar10-60k-jpeg.tar.xz .gpu/                                  # the images as a packed image folder (or DATA=<folder>)
#   # a machine with PyTorch and torchvision may lack pydantic and torchattacks (typer, rich, PyYAML, scipy, Pillow, pyarrow too):
#   python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .gpu \
#     pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection typing-extensions torchattacks==3.5.1
# There, in the same checkout: OUT=<empty folder> bash benchmarks/gpu/first_run.sh   (575 s at most; LIMIT=... for another limit)
# Elsewhere than in the project: git archive --prefix=ablate-src/ HEAD of the project, unpacked beside this script.
# Steps, each under its own limit, each result written as soon as it is there: a later one that hangs costs no earlier one.
#   1 speed.py  230 s  in order of value, until its time is over                              -> $OUT/speed.json
#   2 check.py  110 s  GPU float32 against CPU float64; compiled and captured against eager   -> check.json
#   3 launch    rest   the baseline's seeds in one group, with Table 1 and Figures 2 to 6     -> home.tgz.*
# What speed.py finds of trainings in turn (K = 1, 2, 4, 8) is kept in the storage, where --trials-per-process auto reads it.
# Rehearse without a GPU (EAGER=1: nothing compiled):
#   DEVICE=cpu TINY=1 EAGER=1 LIMIT=300 OUT=<folder> PYTHON=.venv/bin/python DATA=<imagefolder> bash benchmarks/gpu/first_run.sh
# It reaches into modules (ablate.learning.training.TrainingRun, ablate.bench.*) and moves with them: this file counts, copies
# of it elsewhere may be older. tests/benchmarks/test_first_run.py rehearses it.
set -u
here=$(cd "$(dirname "$0")" && pwd)
LIMIT=${LIMIT:-575}                       # of the whole script, below timeout_s
. "$here/common.sh"

cat > "$W/common.py" <<'PY'
import json, os, statistics, sys, time, torch
began = time.monotonic()
from ablate.core import randomness
from ablate.learning.training import TrainingRun
from ablate.learning.turns import convolutions_in
from ablate.bench.cases import random_dataset
from ablate.spaces.specs import TrialSpec
dev = torch.device(os.environ["DEVICE"]); TINY, EAGER = bool(os.environ.get("TINY")), bool(os.environ.get("EAGER")); GPU = dev.type == "cuda"
def sync():
    if GPU: torch.cuda.synchronize()
class Report(dict):                       # written after every entry
    def __init__(self, name): self.path = os.path.join(os.environ["OUT"], name); super().__init__()
    def put(self, key, make):
        if EAGER and "compile" in key: return
        if time.monotonic() - began > float(os.environ.get("BUDGET", 1e9)): return print(f"{key}: no time", flush=True)
        t = time.perf_counter()
        try: self[key] = make()
        except Exception as e: self[key] = {"FAILED": f"{type(e).__name__}: {str(e)[:600]}"}
        print(f"{key}: {self[key]} [{time.perf_counter() - t:.1f} s]", flush=True)
        with open(self.path, "w") as f: json.dump(self, f, indent=1)
def spec_of(batch, precision="float32", compile=False, quant=None, arch="resnet20", attack="pgd"):
    small = {"depth": 8, "width": 0.25} if TINY and arch == "resnet20" else {}
    return TrialSpec.model_validate({"model": {"arch": arch, "quantization": quant or {}, **small}, "training": {
        "batch_size": batch, "precision": precision, "compile": compile, "attack": {"name": attack}}})
def stepping(run, graphs=True):           # as the training's loop: from the third step on as one graph, where there is a GPU
    if not graphs: run.graphs = None
    stream, index = torch.cuda.Stream() if GPU else None, torch.arange(run.training.batch_size, device=dev)
    run.set_learning_rate(1); sync()
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
for arch, quant in (("resnet20", None), ("resnet20", {"bits": 4, "fat": True}), ("mobilenet_v2", None))[: 2 if TINY else 3]:
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
B, STEPS = (4, 1) if TINY else (128, 8)
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
from ablate.attacks import CleanLogits, build_attack, evaluate
from ablate.bench import textbook
from ablate.bench.machine import device_name, matmul_peak
from ablate.learning import training
from ablate.learning.models import build_network, frozen_parameters
from ablate.learning.models.folding import as_measured, as_searched
from ablate.spaces.specs import COLUMNS, MeasurementSpec
from ablate.storage.speeds import keep
from ablate.storage.storage import Storage
R = Report("speed.json"); LONG = 0.02 if TINY else 0.5
FAT = {"bits": 4, "fat": True}; KS = (1, 2) if TINY else (1, 2, 4, 8)
torch.backends.cudnn.allow_tf32 = False   # as a worker
def sustained(step, batch):               # images/s over a steady stream of steps, not of single ones; median of 3
    for i in range(1 if TINY else 4): step(i)
    sync(); rates = []
    for _ in range(1 if TINY else 3):
        began, n = time.perf_counter(), 0
        while n < 2 or time.perf_counter() - began < LONG:
            for _ in range(1 if TINY else 10): step(n); n += 1
            sync()
        rates.append(n * batch / (time.perf_counter() - began))
    return round(statistics.median(rates), 1)
def theirs(whose, batch, tf32=True):      # tf32 convolutions are torch's own default; without is how ablate.bench times it, too
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        data = random_dataset(batch); x = torch.from_numpy(data.train_images).to(dev).float() / 255; y = torch.from_numpy(data.train_labels).to(dev)
        net = build_network(spec_of(batch).model, 10, 32, 0).to(dev); opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        step = textbook.training_step(net, opt, textbook.pgds()[whose](net, 7)); return sustained(lambda i: step(x, y), batch)
    finally: torch.backends.cudnn.allow_tf32 = False
def training_of(batch, precision, compile=False, graphs=True, quant=None):
    return stepping(TrainingRun(spec_of(batch, precision, compile, quant), random_dataset(batch), dev), graphs)
def ours(*given, **more):
    torch.compiler.reset(); return sustained(training_of(*given, **more), given[0])
def in_turn(batch, precision):            # K trainings in one process, a stream and a graph each: images/s of all
    found, steps = {}, []
    for count in KS:
        steps += [training_of(batch, precision) for _ in range(count - len(steps))]
        def step(i):
            for one in steps: one(i)
        try: found[str(count)] = sustained(step, batch * count)
        except torch.OutOfMemoryError: break
    entry = {"model": spec_of(batch).model.model_dump(mode="json"), "mode": precision, "batch_size": batch, "rates": found}
    keep(Storage(os.environ["W"] + "/storage").files, [], "cpu" if not GPU else device_name(dev), torch.get_num_threads(), None, [entry])
    return found
def columns(count, size, precision="float32"):   # seconds, of a network that is folded already; attacks search in it
    data = random_dataset(count); layout = training.memory_format(dev, "float32")
    x = torch.from_numpy(data.train_images).to(dev).contiguous(memory_format=layout); y = torch.from_numpy(data.train_labels).to(dev)
    net = build_network(spec_of(size).model, 10, 32, 0).to(dev, memory_format=layout).eval(); attacks = [build_attack(name, MeasurementSpec(batch_size=size)) for name in COLUMNS]
    with frozen_parameters(net):
        asked, search = as_measured(net, 32), as_searched(net, 32, precision)
        def all_of(n):
            clean = CleanLogits(asked, x[:n], size); began = time.perf_counter()
            for attack in attacks: evaluate(asked, attack, x[:n], y[:n], seed=0, batch_size=size, clean=clean, search=search)
            sync(); return round(time.perf_counter() - began, 2)
        all_of(size); return all_of(count)
def laid_out(layout, batch, precision):
    chosen = training.memory_format; training.memory_format = lambda device, precision: layout
    try: return ours(batch, precision)
    finally: training.memory_format = chosen
def untried(batch, precision):            # cuDNN's own guess in place of a trial of its algorithms
    torch.backends.cudnn.deterministic = True
    try: return ours(batch, precision)
    finally: torch.backends.cudnn.deterministic = False
library = "torchattacks" if "torchattacks" in textbook.pgds() else "written out"
A, Z, S = (4, 5, 6) if TINY else (128, 512, 32)
R.put(f"{A} in turn bfloat16", lambda: in_turn(A, "bfloat16"))
for batch in (A, Z): R.put(f"{batch} {library}, torch's own defaults (TF32 convolutions)", lambda: theirs(library, batch))
R.put(f"{Z} in turn bfloat16", lambda: in_turn(Z, "bfloat16"))
R.put(f"{S} in turn bfloat16", lambda: in_turn(S, "bfloat16"))
R.put(f"{A} 4 bits FAT bfloat16", lambda: ours(A, "bfloat16", quant=FAT))
R.put(f"seven columns on {10 * A if TINY else 10000} images, s", lambda: columns(2 * A if TINY else 10000, A if TINY else 500))
R.put(f"seven columns on {10 * A if TINY else 10000} images, searched in bfloat16, s", lambda: columns(2 * A if TINY else 10000, A if TINY else 500, "bfloat16"))
R.put(f"{A} in turn tf32", lambda: in_turn(A, "tf32"))
R.put(f"{A} in turn float32", lambda: in_turn(A, "float32"))
for batch in (A, Z): R.put(f"{batch} ours bfloat16+compile", lambda: ours(batch, "bfloat16", True))
for precision in ("tf32", "float32"):
    for batch in (Z, S): R.put(f"{batch} in turn {precision}", lambda: in_turn(batch, precision))
R.put(f"{A} 4 bits FAT float32", lambda: ours(A, "float32", quant=FAT))
R.put(f"{A} ours bfloat16, without graphs", lambda: ours(A, "bfloat16", graphs=False))
for name, layout in (("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)):
    for precision in ("float32", "tf32"): R.put(f"{A} ours {precision}, {name}", lambda: laid_out(layout, A, precision))
R.put(f"{A} ours float32, cuDNN's own guess", lambda: untried(A, "float32"))
for batch in (A, Z): R.put(f"{batch} {library}, IEEE float32", lambda: theirs(library, batch, False))
R.put(f"{S} {library}, torch's own defaults (TF32 convolutions)", lambda: theirs(library, S))
R.put(f"{A} written out, torch's own defaults (TF32 convolutions)", lambda: theirs("written out", A))
def copy_rate():
    a = torch.rand(2**28 if GPU else 2**18, device=dev); b = torch.empty_like(a); s = sustained(lambda i: b.copy_(a), 1); return s * 8 * a.numel() / 1e12
R.put("TB/s copied", copy_rate)
if not TINY: R.put("TFLOP/s of a matrix product, bfloat16", lambda: matmul_peak(dev, torch.bfloat16) / 1e12)
if GPU: R.put("memory reserved at most, GB", lambda: torch.cuda.max_memory_reserved() / 1e9)
PY

cd "$W"
BUDGET=$(( ${SPEED_S:-230} - 25 )) run "${SPEED_S:-230}" $PYTHON speed.py 2> "$OUT/check.log"
TORCH_LOGS="recompiles" BUDGET=${CHECK_S:-110} run "${CHECK_S:-110}" $PYTHON check.py >> "$OUT/check.log" 2>&1; grep -E '^[a-z0-9]' "$OUT/check.log" | cut -c1-400 | tail -20
tail -c 3000000 "$OUT/check.log" > "$W/t" && mv "$W/t" "$OUT/check.log"

# 3: train. Compiled only if step 2 saw the compiled losses (it may have failed where nobody has ever run it).
images
COMPILE=$($PYTHON - <<'PY'
import json, os
try: r = json.load(open(os.environ["OUT"] + "/check.json")); e, c = r["losses bfloat16 as it is"]["losses"], r["losses bfloat16 compiled, graphs"]["losses"]
except Exception: print("false")
else: print("true" if abs(e[0] - c[0]) < 0.02 * e[0] and abs(e[-1] - c[-1]) < 0.2 * e[-1] else "false")
PY
)
# As many epochs (with the paper's schedule scaled to them) as the measured speed lets finish, measuring included.
SEEDS=${SEEDS:-0-1}
EPOCHS=${EPOCHS:-$(LEFT=$(left) $PYTHON - <<'PY'
import json, os
try: r = json.load(open(os.environ["OUT"] + "/speed.json"))["512 in turn bfloat16"]["2"]
except Exception: r = 8000.0
budget = float(os.environ["LEFT"]) - 20 - 90           # decoding, capturing and measuring
print(next((e for e in (120, 60, 40, 30, 20, 10) if 2 * e * 50000 * 1.2 / r < 0.9 * budget), 5))
PY
)}
echo "== training $EPOCHS epochs, seeds $SEEDS in one process, compile=$COMPILE"
launch $(( $(left) - 20 )) --space frequency --space lowpass --seeds "$SEEDS" --trials-per-process 2 --set training.precision=bfloat16 \
  --set training.compile=$COMPILE --set "training.epochs=$EPOCHS" ${EXTRA:-}
tail -n 45 "$OUT/launch.log"
bring_home
$PYTHON - <<'PY'
import json, os
for name in ("check", "speed"):
    try: [print(f"{k}: {str(v)[:220]}") for k, v in json.load(open(f"{os.environ['OUT']}/{name}.json")).items()]
    except Exception as e: print(name, e)
PY
echo "== done, $(left) s left"
