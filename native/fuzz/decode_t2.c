/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of qkdd_decode_t2: libFuzzer's entry point; fuzz/replay.c drives it without libFuzzer. */
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3) return 0;
    /* the first byte chooses the layout, the next two the unit; the same stream in one piece and in two gives the same */
    qkdd_t2_layout layout = (qkdd_t2_layout)(data[0] % QKDD_T2_LAYOUTS);
    uint32_t unit = 1 + ((uint32_t)data[1] | (uint32_t)data[2] << 8) * 15;
    size_t n = (size - 3) / 4, clicks, marks, some, others;
    uint32_t *words = malloc(n * sizeof *words + 1);
    int64_t *times = malloc(n * sizeof *times + 1), *parts = malloc(n * sizeof *parts + 1), whole = 0, halves = 0;
    uint8_t *channels = malloc(n + 1);
    if (n > 0) memcpy(words, data + 3, n * 4);
    qkdd_status status = qkdd_decode_t2(words, n, layout, unit, &whole, times, channels, &clicks, &marks);
    if (status == QKDD_OK) {
        size_t cut = n / 3;
        if (clicks + marks > n || whole < 0) abort();
        for (size_t i = 0; i < clicks; i++)
            if (times[i] < 0 || times[i] > (int64_t)1 << 62) abort();
        if (qkdd_decode_t2(words, cut, layout, unit, &halves, parts, channels, &some, &marks) != QKDD_OK) abort();
        if (qkdd_decode_t2(words + cut, n - cut, layout, unit, &halves, parts + some, channels, &others, &marks) != QKDD_OK)
            abort();
        if (halves != whole || some + others != clicks) abort();
        if (clicks > 0 && memcmp(times, parts, clicks * sizeof *times) != 0) abort();
    } else {
        if (whole != 0 || clicks != 0 || marks != 0) abort();
        for (size_t i = 0; i < n; i++)
            if (times[i] != 0 || channels[i] != 0) abort();
    }
    free(words);
    free(times);
    free(parts);
    free(channels);
    return 0;
}
