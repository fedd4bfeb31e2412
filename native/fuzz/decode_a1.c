/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of qkdd_decode_a1: libFuzzer's entry point; fuzz/replay.c drives it without libFuzzer. */
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t n = size / 8, records;
    int64_t *times = malloc(n * sizeof *times + 1);
    uint8_t *patterns = malloc(n + 1), *dummies = malloc(n + 1);
    for (int swapped = 0; swapped < 2; swapped++) {
        qkdd_status status = qkdd_decode_a1(data, size, swapped, times, patterns, dummies, &records);
        if ((status == QKDD_OK) != (size % 8 == 0) || records > n) abort();
        for (size_t i = 0; i < records; i++)
            if (times[i] < 0 || patterns[i] > 15 || dummies[i] > 1) abort();
    }
    free(times);
    free(patterns);
    free(dummies);
    return 0;
}
