#!/bin/sh
# Builds the C kernels with AddressSanitizer and UndefinedBehaviorSanitizer in a temporary folder and runs the unit tests on
# every variant and the fuzz targets over their regressions and FUZZ_ROUNDS generated inputs (run_fuzz.sh runs them under
# libFuzzer). CC chooses the compiler.
set -eu
native=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
compile() {
    "${CC:-gcc}" -std=gnu11 -O1 -g -fno-omit-frame-pointer -ffp-contract=off -Wall -Wextra -Wvla -Werror \
        -fsanitize=address,undefined -fno-sanitize-recover=all -I"$native/include" -I"$native/src" "$@"
}
for source in "$native"/src/*.c; do
    compile -c "$source" -o "$folder/$(basename "$source" .c).o"
done
compile "$native/tests/unit.c" "$folder"/*.o -lm -o "$folder/unit"
"$folder/unit"
for target in $(cd "$native/fuzz" && ls -- *.c | sed 's/\.c$//' | grep -v '^replay$'); do
    compile "$native/fuzz/$target.c" "$native/fuzz/replay.c" "$folder"/*.o -lm -o "$folder/fuzz_$target"
    printf '%s: ' "$target"
    "$folder/fuzz_$target" $(find "$native/fuzz/regressions/$target" -type f 2>/dev/null | sort)
done
