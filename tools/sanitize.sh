#!/usr/bin/env bash
# Sanitizers and fuzzing of the core by one command; any finding ends it non-zero.
#
#     tools/sanitize.sh [cases [seed]]        default: 800 cases from seed 0 with each instruction set of this CPU
#     SANITIZE=thread tools/sanitize.sh       data races instead of addresses and undefined behavior
#     CXX=clang++ tools/sanitize.sh           with another compiler
#
# Same seed, same cases. A failed case prints its number; TAG2MASK_ISA=... and BUILD/fuzz 1 NUMBER repeat it. The build
# stays in $TAG2MASK_FUZZ_BUILD (default: a folder of its own under ${TMPDIR:-/tmp}), so a second run starts at once.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cases=${1:-800} seed=${2:-0}
sanitize=${SANITIZE:-address,undefined}
compiler=${CXX:-c++}
build=${TAG2MASK_FUZZ_BUILD:-${TMPDIR:-/tmp}/tag2mask-fuzz-$(id -u)-$(basename "$compiler")-${sanitize//,/-}}

cmake -S "$root" -B "$build" -DTAG2MASK_FUZZ=ON -DTAG2MASK_SANITIZE="$sanitize" -DCMAKE_CXX_COMPILER="$compiler" >/dev/null
cmake --build "$build" --parallel "$(getconf _NPROCESSORS_ONLN)" >/dev/null

status=0
for isa in baseline avx2 avx512; do
    # The core falls back to what the CPU has and says which kernels ran; the same ones are not run twice.
    ran=$(TAG2MASK_ISA=$isa "$build/fuzz" 0)
    if [ "${ran%% *}" = "$isa" ]; then
        TAG2MASK_ISA=$isa "$build/fuzz" "$cases" "$seed" 2>"$build/$isa.log" || { status=1; tail -n 60 "$build/$isa.log"; }
    fi
done

# The same through Python: layouts, dtypes, NaN, on the core that is installed.
python=${PYTHON:-python}
if "$python" -c 'import tag2mask._core' 2>/dev/null; then
    "$python" "$root/tools/fuzz.py" "$((cases / 4))" "$seed" || status=1
else
    echo "python: skipped, tag2mask with its compiled core is not installed for $python"
fi
exit $status
