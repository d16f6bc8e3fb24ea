#!/usr/bin/env bash
# Every row of `entjax bench` on one GPU, and a trace of the update, in under eight minutes. Needs JAX with CUDA and the
# requirements of entjax; installs nothing and downloads nothing.
# Usage: benchmarks/gpu.sh [OUT]     OUT: where JSON and trace go; default: benchmarks/results/gpu
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(mktemp -d)}
python - <<'P' || exit 1
import jax
if jax.default_backend() != "gpu":
    raise SystemExit(f"JAX finds no GPU here, only {jax.devices()}: install jax[cuda13] on a machine that has one.")
print(jax.__version__, jax.devices())
P
end=$((SECONDS + 460))
bench() { # bench SECONDS ARGUMENTS...: what does not fit into the time is left out, and says so
    local limit=$1 left=$((end - SECONDS))
    shift
    ((left > 15)) || { echo "left out for time: $*"; return; }
    timeout $((limit < left ? limit : left)) python -m entjax bench "$@" --device gpu --out "$out" || echo "not finished: $*"
}
bench 60 vocabulary rounds=5
bench 110 grpo models=30M works=a,b rounds=5
bench 80 grpo models=135M works=a rounds=3
bench 70 sampler models=30M rounds=3
bench 60 update rounds=3
bench 40 chain rounds=5
bench 30 startup rounds=3
python - "$out" <<'P'
import json, sys
from pathlib import Path

peak = {"H100": 66.9e12, "H200": 66.9e12, "A100": 19.5e12, "L4": 30.3e12}  # float32 outside the tensor cores, data sheets
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    for row in json.loads(path.read_text()):
        known = [value for name, value in peak.items() if name in row["hardware"]["device"]]
        for name, program in row["programs"].items():
            if row["flops"] and known:
                share = program["flops_per_second"] / known[0]
                best = program["flops_per_second"] / row["matmul_flops_per_second"]["best"]
                print(f"{row['name']}: {name}: {share:.1%} of the float32 peak, {best:.1%} of the matmul measured here")
P
echo "JSON: $out"
