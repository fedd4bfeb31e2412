/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of the kernels that take packed bits, bits one a byte, or any bytes: qkdd_pack_bits, qkdd_unpack_bits,
 * qkdd_transpose_bytes, qkdd_crc32c, qkdd_poly_hash_of, qkdd_toeplitz_packed on every variant; qkdd_subset_unpack. libFuzzer's entry
 * point; fuzz/replay.c drives it without libFuzzer. */
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void products(const uint8_t *data, size_t size) {
    if (size < 2) return;
    /* n input bits; the seed takes what is left */
    size_t n = data[0] + (size_t)(data[1] & 3) * 256, bytes = (n + 7) / 8;
    if (n == 0 || size - 2 <= bytes) return;
    size_t seed_bytes = size - 2 - bytes;
    if (seed_bytes * 8 < n) return;
    size_t m = seed_bytes * 8 - n + 1, words = qkdd_toeplitz_workspace(n, m);
    uint64_t *workspace = malloc(words * 8);
    uint8_t *first = calloc((m + 7) / 8, 1), *other = calloc((m + 7) / 8, 1);
    qkdd_status status = QKDD_OK;
    for (int variant = 0; variant < QKDD_VARIANTS; variant++) {
        if (qkdd_variant_select((qkdd_variant)variant) != QKDD_OK) continue;
        uint8_t *out = variant == 0 ? first : other;
        qkdd_status got = qkdd_toeplitz_packed(data + 2, n, data + 2 + bytes, m, out, workspace, words);
        if (variant == 0) status = got;
        if (got != status || (variant != 0 && memcmp(first, other, (m + 7) / 8) != 0)) abort();
    }
    free(workspace);
    free(first);
    free(other);
}

/* Gaps that are taken say one map, and only they say it. */
static void gaps(const uint8_t *data, size_t size) {
    if (size < 2) return;
    size_t m = data[0] + (size_t)data[1] * 256, k = 0, again = 0;
    data += 2, size -= 2;
    for (size_t i = 0; i < size; i++) k += data[i] != 255;
    uint8_t *map = calloc((m + 7) / 8 + 1, 1), *back = malloc(k + m / 255 + 1);
    if (qkdd_subset_unpack(data, size, m, k + 1, map) == QKDD_OK) abort();
    memset(map, 0, (m + 7) / 8);
    if (qkdd_subset_unpack(data, size, m, k, map) == QKDD_OK) {
        if (qkdd_subset_pack(map, m, k, back, k + m / 255, &again) != QKDD_OK) abort();
        if (again != size || (size && memcmp(back, data, size) != 0)) abort();
    }
    free(map);
    free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *packed = malloc(size / 8 + 2), *bits = malloc(size * 8 + 1), first[16], got[16], key[16] = {1, 2, 3};
    uint32_t crc = 0;
    for (int variant = 0; variant < QKDD_VARIANTS; variant++) {
        if (qkdd_variant_select((qkdd_variant)variant) != QKDD_OK) continue;
        int clean = 1;
        for (size_t i = 0; i < size; i++) clean &= data[i] < 2;
        if ((qkdd_pack_bits(data, size, packed) == QKDD_OK) != clean) abort();
        size_t count = size * 8 - (size > 0 ? data[0] % 8 : 0);
        if (qkdd_unpack_bits(data, count, bits) == QKDD_OK) {
            uint8_t *back = malloc(size + 1);
            if (qkdd_pack_bits(bits, count, back) != QKDD_OK || memcmp(back, data, size) != 0) abort();
            free(back);
        }
        qkdd_poly_hash_of(key, data, size, got);
        if (variant == 0) memcpy(first, got, 16);
        if (memcmp(first, got, 16) != 0) abort();
        if (variant == 0) crc = qkdd_crc32c(data, size);
        if (qkdd_crc32c(data, size) != crc) abort();
    }
    if (size > 1) { /* there and back */
        const size_t rows = 1 + data[0] % 32, columns = size / rows;
        uint8_t *turned = malloc(size), *back = malloc(size);
        if (qkdd_transpose_bytes(data, rows, columns, columns, turned, rows) != QKDD_OK ||
            qkdd_transpose_bytes(turned, columns, rows, rows, back, columns) != QKDD_OK ||
            memcmp(back, data, rows * columns) != 0)
            abort();
        free(turned);
        free(back);
    }
    free(packed);
    free(bits);
    products(data, size);
    gaps(data, size);
    return 0;
}
