#!/bin/bash
# Everything that wants an NVIDIA GPU, in one call of under ten minutes, in the order of what it is worth:
#
#     scripts/device_cuda.sh [FOLDER FOR RESULTS]          (also $OUT; default build/device-results)
#
# What it runs was made beforehand, on any machine, by `python scripts/prepare_cuda.py` (build/device). The machine needs
# the driver and Python with NumPy; PyTorch and JAX are peers of the benchmark, and said to be missing where they are.
# Each step has a limit of its own, and its results are on the disk as they come. No step stops the others.
set -u
cd "$(dirname "$0")/.." || exit 2
results=${1:-${OUT:-build/device-results}}
mkdir -p "$results"
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/build/dev${PYTHONPATH:+:$PYTHONPATH}"
python3 scripts/link_dev.py
log=$results/log.txt
: > "$log"
summary=()

step() { # name, seconds, command …
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    echo "== $name" | tee -a "$log"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$log"
    local status=${PIPESTATUS[0]} word
    case $status in
        0) word=done ;;
        8) word="no device" ;;
        124 | 137) word="stopped after $limit s; what it wrote stays" ;;
        *) word="exit $status" ;;
    esac
    summary+=("$name: $word ($((SECONDS - start)) s)")
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | tee -a "$log"
step numbers-kernels 40 python3 build/device/numbers.pyz --seconds 30 --out "$results/numbers.jsonl"
step numbers-zoo 80 python3 scripts/numbers_cuda.py
step bench 280 python3 scripts/bench_cuda.py --seconds 230 --peers eager,xla --out "$results"
step tune 60 python3 build/device/tune.pyz --seconds 50 --out "$results/tune.jsonl"
step bench-compiled 110 python3 scripts/bench_cuda.py --seconds 45 --peers compile --out "$results" --name bench-compiled
printf '%s\n' "== summary" "${summary[@]}" | tee -a "$log"
