/* SPDX-License-Identifier: Apache-2.0
 * x86-64 variants: PCLMULQDQ with AVX2, VPCLMULQDQ with AVX-512. Chosen function by function in dispatch.c. */
#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>

#include "internal.h"

#define AVX2 __attribute__((target("avx2,bmi2,popcnt,sse4.2,pclmul")))
#define AVX512 __attribute__((target("avx2,bmi2,popcnt,sse4.2,pclmul,avx512f,avx512dq,avx512bw,avx512vl,vpclmulqdq")))

AVX2 uint32_t qkdd_avx2_crc32c(const uint8_t *data, size_t size) {
    uint64_t crc = 0xFFFFFFFFu;
    for (; size >= 8; size -= 8, data += 8) crc = _mm_crc32_u64(crc, load_le64(data));
    for (; size > 0; size--, data++) crc = _mm_crc32_u8((uint32_t)crc, *data);
    return ~(uint32_t)crc;
}

/* ---- bits ---- */

AVX2 uint64_t qkdd_avx2_pack_words(const uint8_t *bits, size_t words, uint64_t *out) {
    __m256i seen = _mm256_setzero_si256();
    for (size_t i = 0; i < words; i++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(bits + 64 * i));
        __m256i b = _mm256_loadu_si256((const __m256i *)(bits + 64 * i + 32));
        seen = _mm256_or_si256(seen, _mm256_or_si256(a, b));
        uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(a, 7));
        uint32_t high = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(b, 7));
        out[i] = low | (uint64_t)high << 32;
    }
    __m256i above = _mm256_andnot_si256(_mm256_set1_epi8(1), seen);
    return _mm256_testz_si256(above, above) ? 1 : 0xFF;
}

AVX2 void qkdd_avx2_unpack_words(const uint64_t *words, size_t count, uint8_t *bits) {
    const __m256i which = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i place = _mm256_set1_epi64x((long long)0x8040201008040201u), one = _mm256_set1_epi8(1);
    for (size_t i = 0; i < 2 * count; i++) {
        int part = (int)(words[i / 2] >> (i % 2 * 32));
        __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(part), which), place);
        _mm256_storeu_si256((__m256i *)(bits + 32 * i), _mm256_min_epu8(spread, one));
    }
}

AVX512 uint64_t qkdd_avx512_pack_words(const uint8_t *bits, size_t words, uint64_t *out) {
    const __m512i one = _mm512_set1_epi8(1);
    __m512i seen = _mm512_setzero_si512();
    for (size_t i = 0; i < words; i++) {
        __m512i v = _mm512_loadu_si512(bits + 64 * i);
        seen = _mm512_or_si512(seen, v);
        out[i] = _mm512_test_epi8_mask(v, one);
    }
    return _mm512_cmpgt_epu8_mask(seen, one) ? 0xFF : 1;
}

AVX512 void qkdd_avx512_unpack_words(const uint64_t *words, size_t count, uint8_t *bits) {
    const __m512i one = _mm512_set1_epi8(1);
    for (size_t i = 0; i < count; i++) _mm512_storeu_si512(bits + 64 * i, _mm512_maskz_mov_epi8(words[i], one));
}

/* ---- times ---- */

#define TARGET AVX2
#define PREFIX(name) qkdd_avx2_##name
#define WIDTH 8
#include "correlate.h"
#include "slots.h"
#include "times.h"
#undef WIDTH
#undef TARGET
#undef PREFIX
#define TARGET AVX512
#define PREFIX(name) qkdd_avx512_##name
#define WIDTH 16
#include "correlate.h"
#include "slots.h"
#include "times.h"
#undef WIDTH
#undef TARGET
#undef PREFIX

/* ---- GF(2^128) ---- */

static inline AVX2 __m128i load128(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
static inline AVX2 void store128(void *p, __m128i v) { _mm_storeu_si128((__m128i *)p, v); }

static inline AVX2 __m128i reversed(__m128i v) {
    return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

/* (high : low) * x^-128 modulo the POLYVAL polynomial x^128 + x^127 + x^126 + x^121 + 1: its multiples clear the low two words one
 * after the other. By shifts, because the multiplier is what the hash waits for. Of the second word the first step changes only
 * bits from 57 on, so what its low bits add to the third word can be taken before. */
static inline AVX2 __m128i reduce(__m128i low, __m128i high) {
    __m128i up = _mm_xor_si128(_mm_xor_si128(_mm_slli_epi64(low, 63), _mm_slli_epi64(low, 62)), _mm_slli_epi64(low, 57));
    low = _mm_xor_si128(low, _mm_slli_si128(up, 8));
    __m128i down = _mm_xor_si128(_mm_xor_si128(_mm_srli_epi64(low, 1), _mm_srli_epi64(low, 2)), _mm_srli_epi64(low, 7));
    return _mm_xor_si128(_mm_xor_si128(high, _mm_srli_si128(up, 8)), _mm_xor_si128(low, down));
}

static inline AVX2 __m128i joined(__m128i low, __m128i middle, __m128i high) {
    low = _mm_xor_si128(low, _mm_slli_si128(middle, 8));
    high = _mm_xor_si128(high, _mm_srli_si128(middle, 8));
    return reduce(low, high);
}

static inline AVX2 __m128i multiply(__m128i a, __m128i b) {
    __m128i middle = _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10));
    return joined(_mm_clmulepi64_si128(a, b, 0x00), middle, _mm_clmulepi64_si128(a, b, 0x11));
}

AVX2 void qkdd_avx2_polyval_multiply(const uint64_t a[2], const uint64_t b[2], uint64_t product[2]) {
    store128(product, multiply(load128(a), load128(b)));
}

/* Eight blocks at once: sum of x_i H^(8-i) with one reduction; three multiplications a block (Karatsuba). */
AVX2 void qkdd_avx2_ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks) {
    __m128i sum = load128(state->sum);
    if (blocks >= 8) {
        __m128i power[8], folded[8];
        for (int i = 0; i < 8; i++) {
            power[i] = load128(state->powers[7 - i]);
            folded[i] = _mm_xor_si128(power[i], _mm_shuffle_epi32(power[i], 0x4E));
        }
        for (; blocks >= 8; blocks -= 8, data += 128) {
            __m128i low = _mm_setzero_si128(), middle = low, high = low;
#pragma GCC unroll 8
            for (int i = 7; i >= 0; i--) { /* the block that waits for the round before comes last */
                __m128i x = reversed(load128(data + 16 * i));
                if (i == 0) x = _mm_xor_si128(x, sum);
                __m128i y = _mm_xor_si128(x, _mm_shuffle_epi32(x, 0x4E));
                low = _mm_xor_si128(low, _mm_clmulepi64_si128(x, power[i], 0x00));
                high = _mm_xor_si128(high, _mm_clmulepi64_si128(x, power[i], 0x11));
                middle = _mm_xor_si128(middle, _mm_clmulepi64_si128(y, folded[i], 0x00));
            }
            middle = _mm_xor_si128(middle, _mm_xor_si128(low, high));
            sum = joined(low, middle, high);
        }
        wipe(power, sizeof power);
        wipe(folded, sizeof folded);
    }
    const __m128i first = load128(state->powers[0]);
    for (; blocks > 0; blocks--, data += 16) sum = multiply(_mm_xor_si128(sum, reversed(load128(data))), first);
    store128(state->sum, sum);
}

static inline AVX512 __m128i folded_lanes(__m512i v) {
    __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    return _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

#define XOR3 0x96 /* ternary logic: a ^ b ^ c */

static inline AVX512 __m512i swapped512(__m512i v) { return _mm512_shuffle_epi32(v, (_MM_PERM_ENUM)0x4E); }

/* The vector form of reduce, by products: four lanes are as dear as one. Each step clears the lowest 64 bits with
 * 0xC2 << 56 = x^63 + x^62 + x^57. */
static inline AVX512 __m512i reduce512(__m512i low, __m512i middle, __m512i high) {
    const __m512i fold = _mm512_set1_epi64((long long)0xC200000000000000u);
    low = _mm512_xor_si512(low, _mm512_bslli_epi128(middle, 8));
    low = _mm512_xor_si512(swapped512(low), _mm512_clmulepi64_epi128(low, fold, 0x00));
    __m512i twice = _mm512_clmulepi64_epi128(low, fold, 0x00);
    return _mm512_xor_si512(_mm512_ternarylogic_epi64(high, _mm512_bsrli_epi128(middle, 8), swapped512(low), XOR3), twice);
}

/* Sixteen blocks a round, four in a register d0 .. d3. The four lanes are separate sums until the end: with s the lanes so far,
 * s <- s H^16 + d0 H^12 + d1 H^8 + d2 H^4 + d3; then lane l is multiplied by H^(4 - l). Karatsuba: three products a block. */
AVX512 void qkdd_avx512_ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks) {
    if (blocks >= 16) {
        const __m512i turn = _mm512_broadcast_i32x4(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        __m512i power[4], folded[4], sum = _mm512_setzero_si512();
        for (int i = 0; i < 4; i++) {
            power[i] = _mm512_broadcast_i64x2(load128(state->powers[15 - 4 * i]));
            folded[i] = _mm512_xor_si512(power[i], swapped512(power[i]));
        }
        __m512i first = _mm512_zextsi128_si512(load128(state->sum));
        for (; blocks >= 16; blocks -= 16, data += 256) {
            __m512i low = _mm512_setzero_si512(), middle = low, high = low;
            __m512i d3 = _mm512_shuffle_epi8(_mm512_loadu_si512(data + 192), turn);
#pragma GCC unroll 4
            for (int i = 3; i >= 0; i--) { /* the one that waits for the round before comes last */
                __m512i x = i == 0 ? sum : _mm512_shuffle_epi8(_mm512_loadu_si512(data + 64 * (i - 1)), turn);
                if (i == 1) x = _mm512_xor_si512(x, first);
                __m512i y = _mm512_xor_si512(x, swapped512(x));
                low = _mm512_xor_si512(low, _mm512_clmulepi64_epi128(x, power[i], 0x00));
                high = _mm512_xor_si512(high, _mm512_clmulepi64_epi128(x, power[i], 0x11));
                middle = _mm512_xor_si512(middle, _mm512_clmulepi64_epi128(y, folded[i], 0x00));
            }
            middle = _mm512_ternarylogic_epi64(middle, low, high, XOR3);
            sum = _mm512_xor_si512(reduce512(low, middle, high), d3);
            first = _mm512_setzero_si512();
        }
        __m512i last = _mm512_loadu_si512(state->powers[0]);
        last = _mm512_shuffle_i64x2(last, last, 0x1B);
        __m512i middle = _mm512_xor_si512(_mm512_clmulepi64_epi128(sum, last, 0x01), _mm512_clmulepi64_epi128(sum, last, 0x10));
        store128(state->sum, joined(folded_lanes(_mm512_clmulepi64_epi128(sum, last, 0x00)), folded_lanes(middle),
                                    folded_lanes(_mm512_clmulepi64_epi128(sum, last, 0x11))));
        wipe(power, sizeof power);
        wipe(folded, sizeof folded);
    }
    qkdd_avx2_ghash_blocks(state, data, blocks);
}

/* ---- Toeplitz ---- */

/* Diagonal i of the product is the sum over j of x[j] * t[k + i - j]; its low word belongs to out[i], its high word to
 * out[i + 1]. Two neighbours of x meet two neighbours of t crosswise in the same diagonal. */
static inline AVX2 __attribute__((always_inline)) void leaf_of(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k) {
    __m128i before = _mm_setzero_si128();
    for (size_t i = 0; i <= k; i++) { /* diagonal i - 1 */
        __m128i even = _mm_setzero_si128(), odd = even;
#pragma GCC unroll 8
        for (size_t j = 0; j < k; j += 2) {
            __m128i a = load128(x + j), b = load128(t + (k + i - 2 - j));
            even = _mm_xor_si128(even, _mm_clmulepi64_si128(a, b, 0x10));
            odd = _mm_xor_si128(odd, _mm_clmulepi64_si128(a, b, 0x01));
        }
        __m128i diagonal = _mm_xor_si128(even, odd);
        if (i > 0) out[i - 1] ^= (uint64_t)_mm_cvtsi128_si64(diagonal) ^ (uint64_t)_mm_extract_epi64(before, 1);
        before = diagonal;
    }
}

static AVX2 void pclmul_leaf(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k) {
    switch (k) { /* constant sizes let the compiler keep x in registers */
        case 8: leaf_of(out, x, t, 8); break;
        case 10: leaf_of(out, x, t, 10); break;
        case 12: leaf_of(out, x, t, 12); break;
        default: leaf_of(out, x, t, 14); break;
    }
}

#define TARGET AVX2
#define SQUARE qkdd_avx2_square
#define LEAF pclmul_leaf
#include "square.h"
#undef TARGET
#undef SQUARE
#undef LEAF

/* The same with four diagonals in a register, every second one: the operands of diagonals i, i + 2, i + 4, i + 6 are the four
 * pairs of eight consecutive words of t. k is a multiple of 8. */
static inline AVX512 __attribute__((always_inline)) void leaf512_of(uint64_t *out, const uint64_t *x, const uint64_t *t,
                                                                    size_t k) {
    /* diagonal -1, of which only the high word is wanted: lanes over j */
    __m512i below = _mm512_setzero_si512();
    for (size_t j = 0; j < k; j += 8) {
        __m512i a = _mm512_loadu_si512(x + j), b = _mm512_loadu_si512(t + (k - 8 - j));
        a = _mm512_shuffle_i64x2(a, a, 0x1B);
        below = _mm512_ternarylogic_epi64(below, _mm512_clmulepi64_epi128(a, b, 0x10),
                                          _mm512_clmulepi64_epi128(a, b, 0x01), XOR3);
    }
    uint64_t carry = (uint64_t)_mm_extract_epi64(folded_lanes(below), 1);
    for (size_t i = 0; i < k; i += 8) {
        __m512i even = _mm512_setzero_si512(), odd = even, even2 = even, odd2 = even;
#pragma GCC unroll 12
        for (size_t j = 0; j < k; j += 2) {
            __m512i a = _mm512_broadcast_i64x2(load128(x + j));
            __m512i b = _mm512_loadu_si512(t + (k + i - 1 - j));
            even = _mm512_xor_si512(even, _mm512_clmulepi64_epi128(a, b, 0x10));
            even2 = _mm512_xor_si512(even2, _mm512_clmulepi64_epi128(a, b, 0x01));
            b = _mm512_loadu_si512(t + (k + i - j));
            odd = _mm512_xor_si512(odd, _mm512_clmulepi64_epi128(a, b, 0x10));
            odd2 = _mm512_xor_si512(odd2, _mm512_clmulepi64_epi128(a, b, 0x01));
        }
        even = _mm512_xor_si512(even, even2); /* diagonals i, i + 2, i + 4, i + 6: (low, high) each */
        odd = _mm512_xor_si512(odd, odd2);    /* diagonals i + 1, .. i + 7 */
        __m512i low = _mm512_unpacklo_epi64(even, odd);
        /* high words, one place up; the carry of the diagonal before comes in below, the last one goes on */
        __m512i high = _mm512_unpackhi_epi64(even, odd);
        __m512i up = _mm512_alignr_epi64(high, _mm512_set1_epi64((long long)carry), 7);
        __m512i sum = _mm512_ternarylogic_epi64(low, up, _mm512_loadu_si512(out + i), XOR3);
        _mm512_storeu_si512(out + i, sum);
        carry = (uint64_t)_mm_extract_epi64(_mm512_extracti64x2_epi64(high, 3), 1);
    }
}

static AVX512 void vpclmul_leaf(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k) {
    if (k == 16)
        leaf512_of(out, x, t, 16);
    else
        leaf512_of(out, x, t, 24);
}

#define TARGET AVX512
#define SQUARE qkdd_avx512_square
#define LEAF vpclmul_leaf
#include "square.h"

#endif
