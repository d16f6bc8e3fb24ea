#!/usr/bin/env bash
# Every row of `entjax bench` on one GPU, with the share of its peak, and a trace of the update, in under eight minutes. Needs
# JAX with CUDA and the requirements of entjax; installs nothing and downloads nothing.
# Usage: benchmarks/gpu.sh [OUT]           OUT: where JSON and trace go; default: benchmarks/results/gpu
#        benchmarks/gpu.sh --dry OUT       the same commands on a CPU with the smallest sizes: does everything run?
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
device=gpu small=30M large=135M works=a,b rounds=5 tokens=2048
if [[ ${1:-} == --dry ]]; then
    device=cpu small=4.2M large=4.2M works=a rounds=1 tokens=32
    shift
    [[ -n ${1:-} ]] || { echo "--dry needs a folder for its JSON, which nobody should keep"; exit 2; }
fi
out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_DEFAULT_MATMUL_PRECISION=tensorfloat32
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(mktemp -d)}
python - "$device" <<'P' || exit 1
import sys

import jax

if jax.default_backend() != sys.argv[1]:
    raise SystemExit(f"JAX finds no {sys.argv[1]} here, only {jax.devices()}: install jax[cuda13] on a machine with a GPU.")
print(jax.__version__, jax.devices())
P
end=$((SECONDS + 450))
within() { # within SECONDS COMMAND...: what does not fit into the time is left out, and says so
    local limit=$1 left=$((end - SECONDS))
    shift
    ((left > 15)) || { echo "left out for time: $*"; return; }
    timeout $((limit < left ? limit : left)) "$@" || echo "not finished: $*"
}
bench() { # bench SECONDS ARGUMENTS...
    local limit=$1
    shift
    within "$limit" python -m entjax bench "$@" --device "$device" --out "$out"
}
bench 60 vocabulary tokens=$tokens rounds=$rounds
bench 100 grpo models=$small works=$works rounds=$rounds
bench 70 grpo models=$large works=a rounds=$((rounds < 3 ? rounds : 3))
bench 60 sampler models=$small works=$works rounds=$((rounds < 3 ? rounds : 3))
bench 50 update works=$works rounds=$((rounds < 3 ? rounds : 3))
bench 40 chain model=$small rounds=$rounds
bench 30 startup rounds=$((rounds < 3 ? rounds : 3))
within 40 python - "$out" <<'P'
import sys

import jax

from benchmarks.work import MODELS, WORK, fresh_state, make_model, make_trainer, rollout_of

work, decoder = WORK["a"], make_model(MODELS["4.2M"])
trainer, state = make_trainer(decoder), fresh_state(decoder)
rollout = rollout_of(trainer, state.params, work, jax.random.key(1))
pack = trainer.plan(rollout)
rollout = trainer.score(state, rollout, pack)
state, _ = trainer.step(state, rollout, pack)  # compiles
with jax.profiler.trace(sys.argv[1] + "/trace"):
    jax.block_until_ready(trainer.step(state, rollout, pack))
P
python - "$out" <<'P'
import json
import sys
from pathlib import Path

# TF32 on the tensor cores, dense, from the data sheets: what float32 products run on with the precision set above.
peak = {"H100": 494.7e12, "H200": 494.7e12, "A100": 156e12, "L4": 60.5e12}
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    for row in json.loads(path.read_text()):
        known = [value for name, value in peak.items() if name in row["hardware"]["device"]]
        for name, program in row["programs"].items():
            if row["flops"]:
                best = program["flops_per_second"] / row["matmul_flops_per_second"]["best"]
                share = f", {program['flops_per_second'] / known[0]:.1%} of the TF32 peak" if known else ""
                print(f"{row['name']}: {name}: {best:.1%} of the matmul measured here{share}")
P
echo "JSON: $out, after $SECONDS s"
