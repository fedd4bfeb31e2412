/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of LDPC: a small code made from the input, any syndrome, any prior, on every variant; what is decoded has the
 * syndrome, and all variants decode the same. libFuzzer's entry point; fuzz/replay.c drives it without libFuzzer. */
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t at(const uint8_t *data, size_t size, size_t place) { return place < size ? data[place] : 0; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 4) return 0;
    uint32_t rows = 1 + data[0] % 4, columns = 1 + data[1] % 8, lifting = 64 + 64 * (uint32_t)(data[2] % 3), entries = 0;
    uint32_t starts[5] = {0}, *columns_of = malloc(32 * sizeof *columns_of), *shifts = malloc(32 * sizeof *shifts);
    for (uint32_t r = 0; r < rows; r++) {
        uint8_t mask = at(data, size, 4 + r);
        for (uint32_t c = 0; c < columns; c++) {
            if (!(mask >> c & 1)) continue;
            columns_of[entries] = c;
            shifts[entries] = at(data, size, 8 + entries) % (data[3] == 255 ? 256 : lifting);
            entries++;
        }
        starts[r + 1] = entries;
    }
    qkdd_ldpc_code code = {lifting, columns, rows, starts, columns_of, shifts};
    size_t bits = (size_t)columns * lifting, checks = (size_t)rows * lifting, words;
    if (qkdd_ldpc_workspace(&code, &words) == QKDD_OK) {
        uint8_t *first = malloc(bits);
        uint8_t *syndrome = malloc(checks), *errors = malloc(bits), *again = malloc(checks), tables[64];
        int8_t *prior = malloc(bits);
        uint32_t limit = 65536, used, before = 0;
        for (size_t i = 0; i < checks; i++) syndrome[i] = at(data, size, 40 + i) & (data[3] == 254 ? 3 : 1);
        for (size_t i = 0; i < bits; i++) prior[i] = (int8_t)at(data, size, 40 + checks + i);
        for (size_t i = 0; i < 64; i++) tables[i] = (uint8_t)i;
        for (int variant = 0; variant < QKDD_VARIANTS; variant++) {
            if (qkdd_variant_select((qkdd_variant)variant) != QKDD_OK) continue;
            if (qkdd_ldpc_workspace(&code, &words) != QKDD_OK) abort();
            uint64_t *workspace = malloc(words * 8);
            qkdd_status status = qkdd_ldpc_decode(&code, syndrome, prior, tables, &limit, 1, 5, workspace, words, errors, &used);
            free(workspace);
            if (status != QKDD_OK) continue;
            if (qkdd_ldpc_syndrome(&code, errors, again) != QKDD_OK) abort();
            if (used <= 5 && memcmp(again, syndrome, checks) != 0) abort();
            if (variant == QKDD_PORTABLE) {
                before = used;
                memcpy(first, errors, bits);
            } else if (used != before || memcmp(first, errors, bits) != 0)
                abort();
        }
        free(syndrome);
        free(errors);
        free(again);
        free(prior);
        free(first);
    }
    free(columns_of);
    free(shifts);
    return 0;
}
