/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of qkdd_gap_decode: libFuzzer's entry point; fuzz/replay.c drives it without libFuzzer. */
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    /* the first two bytes are the claimed count, the rest is the body; what is accepted has this one encoding */
    size_t count = (size_t)data[0] | (size_t)(data[1] & 15) << 8, again;
    const uint8_t *body = data + 2;
    size -= 2;
    int64_t *values = malloc(count * sizeof *values + 1);
    if (qkdd_gap_decode(body, size, values, count) == QKDD_OK) {
        for (size_t i = 1; i < count; i++)
            if (values[i] < values[i - 1]) abort();
        size_t bound = qkdd_gap_bound(count);
        uint8_t *out = malloc(bound + 1);
        if (qkdd_gap_encode(values, count, out, bound, &again) != QKDD_OK) abort();
        if (count > 0 && out[0] == body[0] && (again != size || memcmp(out, body, size) != 0)) abort();
        free(out);
    } else {
        for (size_t i = 0; i < count; i++)
            if (values[i] != 0) abort();
    }
    free(values);
    return 0;
}
