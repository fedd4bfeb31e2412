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
    /* Elements 0 .. 2^k - 1 of the transposed product, see fft.h. */
    void (*middle_product)(uint64_t *x, unsigned k, size_t count, uint64_t *spectrum, uint64_t *y, const uint64_t *table);
    double butterfly; /* cost of one of its butterflies, in word products of the leaves; measured */
    /* words[i] = the 64 bits in bytes 64 i to 64 i + 63, first in bit 0; returns the OR of all bytes. */
    uint64_t (*pack_words)(const uint8_t *bits, size_t words, uint64_t *out);
    void (*unpack_words)(const uint64_t *words, size_t count, uint8_t *bits); /* whole words */
    int (*sorted)(const int64_t *t, size_t n); /* see times.h */
    void (*map_times)(const int64_t *t, size_t n, double delay, double drift, int64_t origin, int64_t *mapped);
    void (*fold_cells)(const int64_t *t, size_t n, int64_t origin, double rate, double cells, double fold, uint32_t *out);
    void (*pair_sums)(const float *v, size_t n, float less, float *out);
    int (*any_above)(const float *v, size_t n, float alone, float twin, float limit);
    void (*add_rows)(const uint32_t *a, const uint32_t *b, size_t n, uint32_t *sums);
    uint32_t (*best_twin)(const uint32_t *a, size_t n);
    void (*correlate)(const float *table, const float *omega, float *x, const float *other, size_t size, size_t c); /* correlate.h */
    void (*slot_cells)(const int64_t *t, size_t n, int64_t origin, double rate, double phase, double half_gate, int32_t *rel,
                       uint8_t *fine, uint8_t *inside); /* see slots.h */
    /* Bit matrix of 64 out_words rows of in_words words, into 64 in_words rows of out_words words. */
    void (*transpose)(const uint64_t *in, size_t in_words, uint64_t *out, size_t out_words);
} qkdd_kernel_table;

extern const qkdd_kernel_table qkdd_portable_table;

void qkdd_portable_middle_product(uint64_t *x, unsigned k, size_t count, uint64_t *spectrum, uint64_t *y,
                                  const uint64_t *table);
void qkdd_portable_correlate(const float *table, const float *omega, float *x, const float *other, size_t size, size_t c);
uint64_t qkdd_portable_pack_words(const uint8_t *bits, size_t words, uint64_t *out);
void qkdd_portable_unpack_words(const uint64_t *words, size_t count, uint8_t *bits);

#if defined(__x86_64__)
uint32_t qkdd_avx2_crc32c(const uint8_t *data, size_t size);
void qkdd_avx2_ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks);
void qkdd_avx2_polyval_multiply(const uint64_t a[2], const uint64_t b[2], uint64_t product[2]);
void qkdd_avx2_square(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k, unsigned levels, uint64_t *temporary);
void qkdd_avx512_ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks);
void qkdd_avx512_square(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k, unsigned levels,
                        uint64_t *temporary);
void qkdd_avx2_middle_product(uint64_t *x, unsigned k, size_t count, uint64_t *spectrum, uint64_t *y, const uint64_t *table);
void qkdd_avx512_middle_product(uint64_t *x, unsigned k, size_t count, uint64_t *spectrum, uint64_t *y,
                                const uint64_t *table);
uint64_t qkdd_avx2_pack_words(const uint8_t *bits, size_t words, uint64_t *out);
void qkdd_avx2_unpack_words(const uint64_t *words, size_t count, uint8_t *bits);
int qkdd_avx2_sorted(const int64_t *t, size_t n);
void qkdd_avx2_map_times(const int64_t *t, size_t n, double delay, double drift, int64_t origin, int64_t *mapped);
void qkdd_avx2_fold_cells(const int64_t *t, size_t n, int64_t origin, double rate, double cells, double fold,
                    uint32_t *out);
void qkdd_avx2_slot_cells(const int64_t *t, size_t n, int64_t origin, double rate, double phase, double half_gate,
                          int32_t *rel, uint8_t *fine, uint8_t *inside);
void qkdd_avx512_slot_cells(const int64_t *t, size_t n, int64_t origin, double rate, double phase, double half_gate,
                            int32_t *rel, uint8_t *fine, uint8_t *inside);
void qkdd_avx2_pair_sums(const float *v, size_t n, float less, float *out);
int qkdd_avx2_any_above(const float *v, size_t n, float alone, float twin, float limit);
void qkdd_avx2_add_rows(const uint32_t *a, const uint32_t *b, size_t n, uint32_t *sums);
uint32_t qkdd_avx2_best_twin(const uint32_t *a, size_t n);
void qkdd_avx2_correlate(const float *table, const float *omega, float *x, const float *other, size_t size, size_t c);
void qkdd_avx2_transpose(const uint64_t *in, size_t in_words, uint64_t *out, size_t out_words);
uint64_t qkdd_avx512_pack_words(const uint8_t *bits, size_t words, uint64_t *out);
void qkdd_avx512_unpack_words(const uint64_t *words, size_t count, uint8_t *bits);
int qkdd_avx512_sorted(const int64_t *t, size_t n);
void qkdd_avx512_map_times(const int64_t *t, size_t n, double delay, double drift, int64_t origin, int64_t *mapped);
void qkdd_avx512_fold_cells(const int64_t *t, size_t n, int64_t origin, double rate, double cells, double fold,
                    uint32_t *out);
void qkdd_avx512_pair_sums(const float *v, size_t n, float less, float *out);
int qkdd_avx512_any_above(const float *v, size_t n, float alone, float twin, float limit);
void qkdd_avx512_add_rows(const uint32_t *a, const uint32_t *b, size_t n, uint32_t *sums);
uint32_t qkdd_avx512_best_twin(const uint32_t *a, size_t n);
void qkdd_avx512_correlate(const float *table, const float *omega, float *x, const float *other, size_t size, size_t c);
void qkdd_avx512_transpose(const uint64_t *in, size_t in_words, uint64_t *out, size_t out_words);
#endif

#if defined(__aarch64__)
uint32_t qkdd_neon_crc32c(const uint8_t *data, size_t size);
void qkdd_neon_ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks);
void qkdd_neon_polyval_multiply(const uint64_t a[2], const uint64_t b[2], uint64_t product[2]);
void qkdd_neon_square(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k, unsigned levels, uint64_t *temporary);
void qkdd_neon_middle_product(uint64_t *x, unsigned k, size_t count, uint64_t *spectrum, uint64_t *y, const uint64_t *table);
#endif

enum { QKDD_MATRIX, QKDD_DUAL, QKDD_TRANSPOSE }; /* which form of a linear map, see fft.h */
#define QKDD_FFT_TABLE 4096 /* words */
#define QKDD_FFT_LEAST 7    /* smallest k: the sixteenth of 2^k must be whole leaves */
#define QKDD_FFT_MOST 30    /* largest k: the table has the twiddles of 2^32 blocks */
void qkdd_fft_twiddles(uint64_t *table);

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

/* Says that a value is no secret although secrets went into it, because the status will tell it. Only the constant-time test
 * (tests/secrets.c) listens. */
#ifdef QKDD_SECRETS
#include <valgrind/memcheck.h>
#define PUBLIC(value) ((void)VALGRIND_MAKE_MEM_DEFINED(&(value), sizeof(value)))
#else
#define PUBLIC(value) ((void)0)
#endif

/* Zero memory that held key bits; the barrier keeps the compiler from dropping the store. */
static inline void wipe(void *p, size_t size) {
    memset(p, 0, size);
    __asm__ __volatile__("" : : "r"(p) : "memory");
}

/* Pack bits[count] into words[ceil(count / 64)], least significant bit first, the rest of the last word 0.
 * Returns the OR of all bytes, so that the caller sees values above 1. */
uint64_t qkdd_pack_words(const uint8_t *bits, size_t count, uint64_t *words);
/* The inverse. */
void qkdd_unpack_words(const uint64_t *words, size_t count, uint8_t *bits);
/* The same from and to packed bytes, most significant bit first; returns the unused low bits of the last byte. */
uint64_t qkdd_words_from_packed(const uint8_t *packed, size_t count, uint64_t *words);
void qkdd_packed_from_words(const uint64_t *words, size_t count, uint8_t *packed);

#endif
