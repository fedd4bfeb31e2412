#!/bin/sh
# Builds the C kernels and their unit tests for aarch64 and runs them under qemu-aarch64, on the portable and the NEON variant, with
# the vectors that the x86-64 variants exported (tests/vectors.c). Fails if a variant did not run. Needs the Debian packages
# gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user.
set -eu
native=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
build() { # build COMPILER TARGET SOURCE: program with all kernels
    "$1" -std=gnu11 -O2 -ffp-contract=off -Wall -Wextra -Wvla -Werror -I"$native/include" -I"$native/src" \
        "$native"/src/*.c "$native/tests/$3.c" -lm -o "$folder/$2"
}
run() { qemu-aarch64 -L /usr/aarch64-linux-gnu "$@"; }
build aarch64-linux-gnu-gcc unit unit
run "$folder/unit" | tee "$folder/log"
for variant in 0 3; do
    grep -q "^variant $variant: done$" "$folder/log" || { echo "variant $variant ran no test"; exit 1; }
done
build "${CC:-gcc}" vectors_here vectors
build aarch64-linux-gnu-gcc vectors_there vectors
"$folder/vectors_here" > "$folder/here"
run "$folder/vectors_there" > "$folder/there"
# lines are "kernel sizes digest"; every variant printed the same ones, or the program failed
[ "$(wc -l < "$folder/here")" -ge 100 ] || { echo "too few vectors"; exit 1; }
cmp "$folder/here" "$folder/there"
echo "aarch64: $(wc -l < "$folder/there") vectors as on $(uname -m)"
