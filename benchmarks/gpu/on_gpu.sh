#!/usr/bin/env bash
# Run prepared stages on a GPU machine, in the root of a checkout; README.md describes them.
#
#   bash benchmarks/gpu/on_gpu.sh [--check] [--write] STAGE SECONDS [STAGE SECONDS ...]     stages: smoke mmdet speed compile tables detectors product
#
# A stage ends within its seconds. Each of its parts has a limit of its own, and what it wrote so far stays under $OUT.
#   --check   run each part on a CPU at a tiny size, to see that it works; the numbers mean nothing
#   --write   let the parts of speed also write their reports under benchmarks/results/
# Environment: OUT (reports; .gpu-out), DATA (folder with bccd and coco_people; .gpu-data), SITE (where wheels from .whl* are installed),
# SLOW (factor for the limits of the parts), SET, EPOCHS and AT_ONCE (stage tables).
set -uo pipefail
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
check="" device=cuda write=()
while :; do
    case "${1:-}" in --check) check=--check device=cpu; shift ;; --write) write=(--write); shift ;; --device) device=$2; shift 2 ;; *) break ;; esac
done
root=$PWD
export OUT=${OUT:-$root/.gpu-out}
mkdir -p "$OUT"
data=${DATA:-.gpu-data}
site=${SITE:-${TMPDIR:-/tmp}/gfl-lab-site}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$site:$root" PYTHONWARNINGS=ignore
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/gfl-lab-inductor}
unset MLFLOW_TRACKING_URI
[ -n "$check" ] && export CUDA_VISIBLE_DEVICES=""
log=$OUT/log.txt
failed=()
began=$SECONDS
deadline=$((SECONDS + 600))
say() { printf '%s\n' "$*" | tee -a "$log"; }

part() { # NAME LIMIT FILE COMMAND...: FILE gets its stdout, log.txt its stderr
    local name=$1 limit=$(($2 * ${SLOW:-1})) file=$3 rc start=$SECONDS left=$((deadline - SECONDS - 8)); shift 3
    ((limit > left)) && limit=$left
    if ((limit < 8)); then say "-- $name: skipped, the stage's time is over"; failed+=("$name (no time)"); return 1; fi
    timeout -k 5 "$limit" "$@" > >(tee -a "$file") 2> >(tee -a "$log" | tail -c 1500 >&2)
    rc=$?
    sleep 0.5 # for tee; no wait: what a part leaves running must not hold this up
    case $rc in 0) say "-- $name: ok, $((SECONDS - start)) s" ;; 124 | 137) say "-- $name: CUT OFF after $limit s"; failed+=("$name (cut off)") ;; *) say "-- $name: FAILED ($rc), $((SECONDS - start)) s"; failed+=("$name") ;; esac
    return $rc
}

install() { # the wheels of prepare.sh that are here and not installed yet; none where the environment has all
    local start=$SECONDS wheels=() each
    mkdir -p "$site/.have"
    shopt -s nullglob
    for each in .whl/*.whl .whl2/*.whl .whl3/*.whl; do
        [ -e "$site/.have/$(basename "$each")" ] || wheels+=("$each")
    done
    shopt -u nullglob
    if ((${#wheels[@]})); then
        # a wheel whose requirements are not there yet does no harm
        python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "${wheels[@]}" >> "$log" 2>&1 || { say "wheels: FAILED, see log.txt"; tail -5 "$log"; exit 3; }
        for each in "${wheels[@]}"; do touch "$site/.have/$(basename "$each")"; done
    fi
    say "wheels: ${#wheels[@]} installed in $((SECONDS - start)) s"
}

look() {
    python3 - "$device" <<'PY' 2>&1 | tee -a "$log"
import platform, sys, time
began = time.perf_counter()
import numpy, torch, torchvision
print(f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, numpy {numpy.__version__}, import {time.perf_counter() - began:.1f} s")
if sys.argv[1] == "cuda":
    assert torch.cuda.is_available(), "torch sees no GPU"
    began = time.perf_counter()
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    print(f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, ready in {time.perf_counter() - began:.1f} s")
    for name, work, unit, amount in (("bf16 product", lambda: a @ a, "TFLOP/s", 2 * 8192**3 / 1e12), ("copy", lambda: a.clone(), "TB/s", 2 * a.nbytes / 1e12)):
        for _ in range(3): work()
        torch.cuda.synchronize(); began = time.perf_counter()
        for _ in range(20): work()
        torch.cuda.synchronize()
        print(f"{name}: {20 * amount / (time.perf_counter() - began):.2f} {unit}")
PY
    return "${PIPESTATUS[0]}"
}

smoke() {
    local few=(); [ -n "$check" ] && few=(--only GFL ATSS "DCN v2, R50" ViT)
    part "variants, operators" 140 "$OUT/smoke.md" python3 "$kit/smoke.py" --device "$device" $check "${few[@]}"
    part "tests that need a GPU" 60 "$OUT/smoke.md" python3 -m pytest -q -p no:cacheprovider tests/test_detector_ops_deform.py -k "autocast"
    part "Table 3 inline on smoke" 90 "$OUT/smoke.md" env GFL_LAB_HOME="$PWD/.gpu-out/smoke-runs" python3 -m gfl_lab.cli.main run experiments/table3_qfl_dfl.yaml --profile smoke --executor inline
    say "devices of its trials: $(cat .gpu-out/smoke-runs/trials/*/result.json 2>/dev/null | python3 -c 'import re, sys; print(sorted(set(re.findall(r"\"device\": \"([^\"]+)\"", sys.stdin.read()))))')"
    local which=(--dist=load -n 12)
    [ -n "$check" ] && which=(-k box_losses)
    part "every experiment, trained for some steps" 120 "$OUT/smoke.md" python3 -m pytest -q -p no:cacheprovider tests/test_smoke_experiments.py "${which[@]}"
}

bench() { # NAME LIMIT SCRIPT ARGUMENTS...
    local name=$1 limit=$2 script=$3; shift 3
    part "$name" "$limit" "$OUT/speed.md" python3 "benchmarks/$script" "$@" "${write[@]}"
}

mmdet() {
    local few=(); [ -n "$check" ] && few=(--only atss_r50_fpn faster-rcnn_r50_fpn_1x)
    part "operators, detectors of mmdet's" 200 "$OUT/mmdet.md" python3 "$kit/mmdet_detectors.py" --device "$device" "${few[@]}"
}

speed() {
    local d=(--device "$device") small=() losses=(--batch 16)
    if [ -n "$check" ]; then small=(--depth 18 --size 96 128 --rounds 2) losses=(--batch 1 --repeat 1); fi
    local both=(); [ -n "$check" ] && both=(--batch 2 --throughput-batch 2)
    bench "R50 training" 120 detector_speed.py "${d[@]}" "${small[@]}" "${both[@]}" --only training
    bench "R50 inference" 120 detector_speed.py "${d[@]}" "${small[@]}" "${both[@]}" --only inference
    bench "targets and losses" 60 head_losses.py "${d[@]}" "${losses[@]}"
    bench "variants' latency" 60 variant_latency.py "${d[@]}" "${small[@]}"
    bench "R50 training by kind" 90 detector_speed.py "${d[@]}" "${small[@]}" "${both[@]}" --only training --profile
    if [ -d "$data/coco_people" ]; then
        local load=(--epochs 1 --workers 0 15); [ -n "$check" ] && load=(--epochs 1 --workers 0)
        bench "loading" 90 data_loading.py "$data/coco_people" "${load[@]}"
    fi
    [ -n "$check" ] && return
    bench "R101 inference" 90 detector_speed.py "${d[@]}" --depth 101 --only inference
    bench "targets and losses against sizes" 150 head_losses.py "${d[@]}" "${losses[@]}" --sweep
    bench "growth" 120 growth.py "${d[@]}" --rounds 3
    bench "R101 training" 90 detector_speed.py "${d[@]}" --depth 101 --only training
}

compile() {
    part "combinations" 600 "$OUT/compile.md" python3 "$kit/fast.py" --device "$device" $check --seconds $((deadline - SECONDS - 15))
}

tables() {
    local set=${SET:-bccd}
    part "Table 3 on $set, three seeds" 600 "$OUT/tables.md" python3 "$kit/packed.py" "$data/$set" --home .gpu-out/tables --seconds $((deadline - SECONDS - 25)) ${EPOCHS:+--epochs $EPOCHS} ${AT_ONCE:+--at-once $AT_ONCE} $check
    tar czf "$OUT/tables.tar.gz" --exclude='*.pth' --exclude='*.parquet' --exclude=data -C .gpu-out tables 2>> "$log"
    ls -l "$OUT/tables.tar.gz" | awk '{print $5, "bytes of tables.tar.gz"}'
}

detectors() { # ours and mmdet's on the profile desk
    part "mmdet's detectors on desk, three seeds" 600 "$OUT/detectors.md" python3 "$kit/packed.py" --experiment experiments/detectors.yaml --home .gpu-out/detectors --seconds $((deadline - SECONDS - 25)) --at-once "${AT_ONCE:-16}" $check
    tar czf "$OUT/detectors.tar.gz" --exclude='*.pth' --exclude='*.parquet' --exclude=data -C .gpu-out detectors 2>> "$log"
    ls -l "$OUT/detectors.tar.gz" | awk '{print $5, "bytes of detectors.tar.gz"}'
}

product() { # the command that a user gives, with Ray and MLflow
    local share=(--gpus 0.25)
    [ -n "$check" ] && share=(--cpus 1)
    export GFL_LAB_HOME="$PWD/.gpu-out/product"
    local run=(python3 -m gfl_lab.cli.main run experiments/table3_qfl_dfl.yaml --profile smoke "${share[@]}")
    part "gfl-lab run with Ray and MLflow" 120 "$OUT/product.md" "${run[@]}"
    part "the same again" 60 "$OUT/product.md" "${run[@]}"
    # its exit code is 6 where gfl-lab is not installed as a package
    part "doctor" 60 "$OUT/product.md" bash -c 'python3 -m gfl_lab.cli.main doctor; true'
}

say "== $(date -u +%FT%TZ) $(nproc) cores; $* $check"
install
look || { say "no GPU that torch can use: given up"; exit 4; }
while (($#)); do
    stage=$1 seconds=${2:-300}; shift; shift || true
    case $stage in smoke | mmdet | speed | compile | tables | detectors | product) ;; *) say "no stage $stage"; exit 2 ;; esac
    deadline=$((SECONDS + seconds))
    say "== $stage, $seconds s at most"
    start=$SECONDS
    $stage
    say "== $stage took $((SECONDS - start)) s"
done
if ((${#failed[@]})); then say "NOT COMPLETE: $(printf '%s; ' "${failed[@]}")"; else say "all parts ok"; fi
say "== whole call $((SECONDS - began)) s"
((${#failed[@]} == 0))
