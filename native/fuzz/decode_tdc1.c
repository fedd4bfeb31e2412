/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of qkdd_decode_tdc1: libFuzzer's entry point; fuzz/replay.c drives it without libFuzzer. */
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t n = size / 4, clicks, dummies;
    uint32_t *words = malloc(n * sizeof *words + 1);
    int64_t *times = malloc(n * sizeof *times + 1);
    uint8_t *patterns = malloc(n + 1);
    if (n > 0) memcpy(words, data, n * 4);
    /* the same stream in one piece and in two ends in the same state */
    qkdd_tdc1_state whole = {0}, parts = {0};
    if (qkdd_decode_tdc1(words, n, &whole, times, patterns, &clicks, &dummies) != QKDD_OK) abort();
    if (clicks + dummies + whole.voids != n) abort();
    size_t cut = n / 3;
    if (qkdd_decode_tdc1(words, cut, &parts, times, patterns, &clicks, &dummies) != QKDD_OK) abort();
    if (qkdd_decode_tdc1(words + cut, n - cut, &parts, times, patterns, &clicks, &dummies) != QKDD_OK) abort();
    if (parts.wraps != whole.wraps || parts.last != whole.last || parts.voids != whole.voids) abort();
    free(words);
    free(times);
    free(patterns);
    return 0;
}
