#!/bin/sh
# Runs the kernels with secret inputs under valgrind's memcheck with the secrets marked undefined (tests/secrets.c), on the portable
# and the AVX2 variant; fails if a branch or an address depends on a secret, if a kernel did not run, or if the check does
# not see a branch that is put there for it. Then the times of calls on the fastest variant (tests/timing.c). Needs the Debian
# package valgrind.
set -eu
native=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# the flags of the shipped build: another optimiser might choose other branches
"${CC:-gcc}" -std=gnu11 -O3 -g -ffp-contract=off -DQKDD_SECRETS -Wall -Wextra -Wvla -Werror -I"$native/include" -I"$native/src" \
    "$native"/src/*.c "$native/tests/secrets.c" -lm -o "$folder/secrets"
valgrind --quiet --error-exitcode=9 "$folder/secrets" | tee "$folder/log"
wanted=1
grep -q avx2 /proc/cpuinfo && wanted=2
[ "$(grep -c toeplitz "$folder/log")" -eq "$wanted" ] || { echo "a variant did not run"; exit 1; }
if valgrind --quiet --error-exitcode=9 "$folder/secrets" control > "$folder/control" 2>&1; then
    echo "valgrind did not see the branch on a secret in the control"
    exit 1
fi
grep -q "depends on uninitialised" "$folder/control"
# AVX-512 by statistics
"${CC:-gcc}" -std=gnu11 -O3 -ffp-contract=off -Wall -Wextra -Wvla -Werror -I"$native/include" -I"$native/src" \
    "$native"/src/*.c "$native/tests/timing.c" -lm -o "$folder/timing"
"$folder/timing"
echo "constant time: no branch or address depends on a secret"
