#!/usr/bin/env bash
# The peers that entjax is measured against, each in a virtual environment of its own (about 3 GB in all).
# Usage: benchmarks/peers/setup.sh [FOLDER]     FOLDER: where the environments go; default: benchmarks/peers/venvs
set -euo pipefail
folder=${1:-$(dirname "$0")/venvs}
python=${PYTHON:-python3.11}
mkdir -p "$folder"

"$python" -m venv "$folder/tunix"
"$folder/tunix/bin/pip" install -q google-tunix==0.1.7 jax==0.10.2

"$python" -m venv "$folder/trl"
# +cpu keeps a CUDA build away; where the index has no such build, the plain version is the CPU one.
"$folder/trl/bin/pip" install -q torch==2.13.0+cpu 2>/dev/null || "$folder/trl/bin/pip" install -q torch==2.13.0
"$folder/trl/bin/pip" install -q trl==1.16.0 transformers==5.23.0

"$folder/tunix/bin/python" -c 'from importlib.metadata import version as v; print("tunix", v("google-tunix"), "jax", v("jax"))'
"$folder/trl/bin/python" -c 'from importlib.metadata import version as v; print("trl", v("trl"), "torch", v("torch"))'
