/* SPDX-License-Identifier: Apache-2.0
 * Transposing a matrix of bytes: squares of 8 × 8 in eight words, in tiles whose lines stay in the first cache. */
#include "internal.h"

#define TILE 64

/* Exchange what `mask` covers of y with what it covers of x, `shift` bits further up. */
static inline __attribute__((always_inline)) void exchange(uint64_t *x, uint64_t *y, int shift, uint64_t mask) {
    uint64_t differ = ((*x >> shift) ^ *y) & mask;
    *y ^= differ;
    *x ^= differ << shift;
}

static inline void square(const uint8_t *in, size_t in_stride, uint8_t *out, size_t out_stride) {
    uint64_t row[8];
    for (int i = 0; i < 8; i++) row[i] = load_le64(in + (size_t)i * in_stride);
    for (int i = 0; i < 4; i++) exchange(&row[i], &row[i + 4], 32, 0x00000000FFFFFFFFu);
    for (int i = 0; i < 8; i += 4)
        for (int j = i; j < i + 2; j++) exchange(&row[j], &row[j + 2], 16, 0x0000FFFF0000FFFFu);
    for (int i = 0; i < 8; i += 2) exchange(&row[i], &row[i + 1], 8, 0x00FF00FF00FF00FFu);
    for (int i = 0; i < 8; i++) store_le64(out + (size_t)i * out_stride, row[i]);
}

static void tile(const uint8_t *in, size_t rows, size_t columns, size_t in_stride, uint8_t *out, size_t out_stride) {
    const size_t high = rows / 8 * 8, wide = columns / 8 * 8;
    for (size_t r = 0; r < high; r += 8)
        for (size_t c = 0; c < wide; c += 8) square(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = r < high ? wide : 0; c < columns; c++) out[c * out_stride + r] = in[r * in_stride + c];
}

qkdd_status qkdd_transpose_bytes(const uint8_t *in, size_t rows, size_t columns, size_t in_stride, uint8_t *out,
                                 size_t out_stride) {
    if (in_stride < columns || out_stride < rows) return QKDD_BAD_ARGUMENT;
    for (size_t r = 0; r < rows; r += TILE)
        for (size_t c = 0; c < columns; c += TILE)
            tile(in + r * in_stride + c, rows - r < TILE ? rows - r : TILE, columns - c < TILE ? columns - c : TILE, in_stride,
                 out + c * out_stride + r, out_stride);
    return QKDD_OK;
}
