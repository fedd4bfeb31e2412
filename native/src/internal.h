/* SPDX-License-Identifier: Apache-2.0
 * What the kernels share among themselves. Never installed. */
#ifndef QKDD_INTERNAL_H
#define QKDD_INTERNAL_H

#include <string.h>

#include "qkdd_kernels.h"

/* The functions that differ between variants. */
typedef struct {
    uint32_t (*crc32c)(const uint8_t *data, size_t size);
    /* Fold `blocks` blocks of 16 bytes into state->sum. */
    void (*ghash_blocks)(qkdd_poly_hash *state, const uint8_t *data, size_t blocks);
    /* POLYVAL product of two elements (RFC 8452: a * b * x^-128). */
    void (*polyval_multiply)(const uint64_t a[2], const uint64_t b[2], uint64_t product[2]);
    /* out[i] ^= word k + i of the product x[k] * t[2k] over GF(2), 0 <= i < k; k = leaf * 2^levels; see square.h. */
    void (*toeplitz_square)(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k, unsigned levels,
                            uint64_t *temporary);
    size_t leaf_first, leaf_last, leaf_step; /* sizes in words that its leaves are made for */
} qkdd_kernel_table;

extern const qkdd_kernel_table qkdd_portable_table;

#if defined(__x86_64__)
uint32_t qkdd_avx2_crc32c(const uint8_t *data, size_t size);
void qkdd_avx2_ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks);
void qkdd_avx2_polyval_multiply(const uint64_t a[2], const uint64_t b[2], uint64_t product[2]);
void qkdd_avx2_square(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k, unsigned levels, uint64_t *temporary);
void qkdd_avx512_ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks);
void qkdd_avx512_square(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k, unsigned levels,
                        uint64_t *temporary);
#endif

/* The table in use. */
const qkdd_kernel_table *qkdd_kernels(void);

static inline uint64_t load_le64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

static inline void store_le64(uint8_t *p, uint64_t v) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    memcpy(p, &v, 8);
}

static inline uint64_t load_be64(const uint8_t *p) { return __builtin_bswap64(load_le64(p)); }
static inline void store_be64(uint8_t *p, uint64_t v) { store_le64(p, __builtin_bswap64(v)); }

/* Zero memory that held key bits; the barrier keeps the compiler from dropping the store. */
static inline void wipe(void *p, size_t size) {
    memset(p, 0, size);
    __asm__ __volatile__("" : : "r"(p) : "memory");
}

/* Pack bits[count] into words, least significant bit first, from bit `offset` on (ORed into zeroed words).
 * Returns the OR of all bytes, so that the caller sees values above 1. */
uint64_t qkdd_pack_words(const uint8_t *bits, size_t count, uint64_t *words, size_t offset);
/* The inverse from bit 0 on. */
void qkdd_unpack_words(const uint64_t *words, size_t count, uint8_t *bits);

#endif
