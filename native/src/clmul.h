/* SPDX-License-Identifier: Apache-2.0
 * Carry-less products in plain C, without table or branch. */
#ifndef QKDD_CLMUL_H
#define QKDD_CLMUL_H

#include <stdint.h>

/* Low 64 bits of the carry-less product, by integer multiplication with holes: operands are cut into four combs whose set
 * bits are four apart; at most 16 ones meet in a column, so a carry reaches only bits that are masked away. Sixteen would
 * need five bits, but a column with 16 terms exists only at the top position, whose carry leaves the word. */
static inline uint64_t multiply_low(uint64_t a, uint64_t b) {
    const uint64_t comb = 0x1111111111111111u;
    uint64_t a0 = a & comb, a1 = a & (comb << 1), a2 = a & (comb << 2), a3 = a & (comb << 3);
    uint64_t b0 = b & comb, b1 = b & (comb << 1), b2 = b & (comb << 2), b3 = b & (comb << 3);
    uint64_t c0 = (a0 * b0) ^ (a1 * b3) ^ (a2 * b2) ^ (a3 * b1);
    uint64_t c1 = (a0 * b1) ^ (a1 * b0) ^ (a2 * b3) ^ (a3 * b2);
    uint64_t c2 = (a0 * b2) ^ (a1 * b1) ^ (a2 * b0) ^ (a3 * b3);
    uint64_t c3 = (a0 * b3) ^ (a1 * b2) ^ (a2 * b1) ^ (a3 * b0);
    return (c0 & comb) | (c1 & (comb << 1)) | (c2 & (comb << 2)) | (c3 & (comb << 3));
}

static inline uint64_t reversed_bits(uint64_t v) {
    v = ((v >> 1) & 0x5555555555555555u) | ((v & 0x5555555555555555u) << 1);
    v = ((v >> 2) & 0x3333333333333333u) | ((v & 0x3333333333333333u) << 2);
    v = ((v >> 4) & 0x0F0F0F0F0F0F0F0Fu) | ((v & 0x0F0F0F0F0F0F0F0Fu) << 4);
    return __builtin_bswap64(v);
}

/* The 127-bit product; its upper half is the reversed lower half of the reversed operands' product. */
static inline void carryless(uint64_t a, uint64_t b, uint64_t *low, uint64_t *high) {
    *low = multiply_low(a, b);
    *high = reversed_bits(multiply_low(reversed_bits(a), reversed_bits(b))) >> 1;
}

#endif
