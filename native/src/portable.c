/* SPDX-License-Identifier: Apache-2.0
 * The portable reference of every kernel that has variants. Plain C11; the oracle for the others. */
#include <math.h>

#include "clmul.h"
#include "internal.h"

/* One nibble at a time; the table is the CRC of the 16 nibbles. */
static uint32_t crc32c(const uint8_t *data, size_t size) {
    static const uint32_t nibble[16] = {0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3,
                                        0x61C69362, 0x7198540D, 0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9,
                                        0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75};
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        crc = (crc >> 4) ^ nibble[crc & 15];
        crc = (crc >> 4) ^ nibble[crc & 15];
    }
    return ~crc;
}

static void polyval_multiply(const uint64_t a[2], const uint64_t b[2], uint64_t product[2]) {
    uint64_t c0, c1, c2, c3, m0, m1;
    carryless(a[0], b[0], &c0, &c1);
    carryless(a[1], b[1], &c2, &c3);
    carryless(a[0] ^ a[1], b[0] ^ b[1], &m0, &m1);
    m0 ^= c0 ^ c2;
    m1 ^= c1 ^ c3;
    c1 ^= m0;
    c2 ^= m1;
    /* x^-128: add the multiples of x^128 + x^127 + x^126 + x^121 + 1 that clear the two low words, one after the other */
    c2 ^= c0 ^ (c0 >> 1) ^ (c0 >> 2) ^ (c0 >> 7);
    c1 ^= (c0 << 63) ^ (c0 << 62) ^ (c0 << 57);
    c3 ^= c1 ^ (c1 >> 1) ^ (c1 >> 2) ^ (c1 >> 7);
    c2 ^= (c1 << 63) ^ (c1 << 62) ^ (c1 << 57);
    product[0] = c2;
    product[1] = c3;
}

static void ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks) {
    for (; blocks > 0; blocks--, data += 16) {
        uint64_t x[2] = {state->sum[0] ^ load_be64(data + 8), state->sum[1] ^ load_be64(data)};
        polyval_multiply(x, state->powers[0], state->sum);
    }
}

#define LEAF_LAST 14 /* words */

/* Shift and add under masks: for every bit place s the operand t is shifted once, then added where x has that bit. The
 * masks, not branches, carry the bits. */
static void toeplitz_leaf(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k) {
    uint64_t shifted[2 * LEAF_LAST];
    for (unsigned s = 0; s < 64; s++) {
        for (size_t l = 1; l < 2 * k; l++) shifted[l] = s ? (t[l] << s) | (t[l - 1] >> (64 - s)) : t[l];
        for (size_t j = 0; j < k; j++) {
            uint64_t mask = 0 - ((x[j] >> s) & 1);
            const uint64_t *row = shifted + (k - j);
            for (size_t i = 0; i < k; i++) out[i] ^= mask & row[i];
        }
    }
    wipe(shifted, sizeof shifted);
}

#define TARGET static
#define SQUARE square
#define LEAF toeplitz_leaf
#include "square.h"

#define PREFIX(name) portable_##name
#undef TARGET
#define TARGET static
#include "times.h"
#include "slots.h"
#undef TARGET
#undef PREFIX
#define TARGET
#define PREFIX(name) qkdd_portable_##name
#define WIDTH 4
#include "correlate.h"

const qkdd_kernel_table qkdd_portable_table = {
    .crc32c = crc32c,
    .ghash_blocks = ghash_blocks,
    .polyval_multiply = polyval_multiply,
    .toeplitz_square = square,
    .leaf_first = 8,
    .leaf_last = LEAF_LAST,
    .leaf_step = 2,
    .middle_product = qkdd_portable_middle_product,
    .butterfly = 4.7,
    .pack_words = qkdd_portable_pack_words,
    .unpack_words = qkdd_portable_unpack_words,
    .sorted = portable_sorted,
    .map_times = portable_map_times,
    .fold_cells = portable_fold_cells,
    .slot_cells = portable_slot_cells,
    .transpose = portable_transpose,
    .pair_sums = portable_pair_sums,
    .any_above = portable_any_above,
    .add_rows = portable_add_rows,
    .best_twin = portable_best_twin,
    .correlate = qkdd_portable_correlate,
};
