/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of qkdd_symbol_decode: libFuzzer's entry point; fuzz/replay.c drives it without libFuzzer. */
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3) return 0;
    /* alphabet and claimed count, then the body; what is accepted can be encoded and comes back */
    unsigned alphabet = data[0] % 20;
    size_t count = (size_t)data[1] | (size_t)(data[2] & 15) << 8, again;
    uint8_t *symbols = calloc(count + 1, 1), *back = malloc(count + 1);
    if (qkdd_symbol_decode(data + 3, size - 3, alphabet, symbols, count) == QKDD_OK) {
        for (size_t i = 0; i < count; i++)
            if (symbols[i] >= alphabet) abort();
        size_t bound = qkdd_symbol_bound(count, alphabet);
        uint8_t *out = malloc(bound + 1);
        if (qkdd_symbol_encode(symbols, count, alphabet, out, bound, &again) != QKDD_OK) abort();
        if (qkdd_symbol_decode(out, again, alphabet, back, count) != QKDD_OK || memcmp(symbols, back, count) != 0) abort();
        free(out);
    } else {
        for (size_t i = 0; i < count; i++)
            if (symbols[i] != 0) abort();
    }
    free(symbols);
    free(back);
    return 0;
}
