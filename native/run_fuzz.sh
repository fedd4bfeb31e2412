#!/bin/sh
# Builds every fuzz target with clang's libFuzzer, ASan and UBSan and runs each for SECONDS_EACH (default 60) seconds from its
# regressions. Fails if a target found something or ran no input. Needs the Debian packages clang and libclang-rt-14-dev.
set -eu
native=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
compile() { # compile SANITIZER ARGUMENTS...
    sanitizer=$1
    shift
    "${CLANG:-clang}" -std=gnu11 -O1 -g -ffp-contract=off -Wall -Wextra -Werror "-fsanitize=$sanitizer,address,undefined" \
        -fno-sanitize-recover=all -I"$native/include" -I"$native/src" "$@"
}
for source in "$native"/src/*.c; do
    compile fuzzer-no-link -c "$source" -o "$folder/$(basename "$source" .c).o"
done
for target in $(cd "$native/fuzz" && ls -- *.c | sed 's/\.c$//' | grep -v '^replay$'); do
    compile fuzzer "$native/fuzz/$target.c" "$folder"/*.o -lm -o "$folder/$target"
    mkdir -p "$folder/corpus_$target" "$folder/none"
    regressions="$native/fuzz/regressions/$target"
    [ -d "$regressions" ] || regressions="$folder/none"
    if ! "$folder/$target" -max_total_time="${SECONDS_EACH:-60}" -max_len=4096 -print_final_stats=1 -verbosity=0 -timeout=10 \
        -artifact_prefix="$folder/$target-" "$folder/corpus_$target" "$regressions" > "$folder/log" 2>&1; then
        cat "$folder/log"
        for found in "$folder/$target"-*; do [ -f "$found" ] && echo "input, base64: $(base64 -w0 "$found")"; done
        exit 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/log")
    [ "${runs:-0}" -ge 1000 ] || { cat "$folder/log"; echo "$target: only ${runs:-no} inputs were run"; exit 1; }
    echo "$target: $runs inputs, no failure"
done
