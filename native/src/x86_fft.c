/* SPDX-License-Identifier: Apache-2.0
 * The additive transform of fft.h with 128-bit (PCLMULQDQ) and 512-bit (VPCLMULQDQ) vectors. */
#if defined(__x86_64__)

#include <immintrin.h>

#include "internal.h"

#define AVX2 __attribute__((target("avx2,bmi2,popcnt,sse4.2,pclmul")))
#define AVX512 __attribute__((target("avx2,bmi2,popcnt,sse4.2,pclmul,avx512f,avx512dq,avx512bw,avx512vl,vpclmulqdq")))
#define ALWAYS inline __attribute__((always_inline))
#define FOLD 0x87 /* z^128 = z^7 + z^2 + z + 1 */

/* ---- one element a vector ---- */

typedef struct {
    __m128i w, u; /* u = w * z^64 */
} twiddle128;

static ALWAYS AVX2 __m128i load128(const uint64_t *p) { return _mm_loadu_si128((const __m128i *)p); }
static ALWAYS AVX2 void store128(uint64_t *p, __m128i v) { _mm_storeu_si128((__m128i *)p, v); }

static ALWAYS AVX2 __m256i entry(const uint64_t *table, size_t c) {
    __m256i low = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(table + 4 * (c & 255))),
                                   _mm256_loadu_si256((const __m256i *)(table + 1024 + 4 * (c >> 8 & 255))));
    __m256i high = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(table + 2048 + 4 * (c >> 16 & 255))),
                                    _mm256_loadu_si256((const __m256i *)(table + 3072 + 4 * (c >> 24 & 255))));
    return _mm256_xor_si256(low, high);
}

static ALWAYS AVX2 twiddle128 twiddle128_of(const uint64_t *table, size_t c) {
    __m256i both = entry(table, c);
    return (twiddle128){_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)};
}

/* low + middle z^64, middle of up to 128 bits */
static ALWAYS AVX2 __m128i folded128(__m128i low, __m128i middle) {
    const __m128i fold = _mm_set_epi64x(FOLD, FOLD);
    return _mm_xor_si128(_mm_xor_si128(low, _mm_slli_si128(middle, 8)), _mm_clmulepi64_si128(middle, fold, 0x01));
}

static ALWAYS AVX2 __m128i times_twiddle128(__m128i v, twiddle128 t) {
    __m128i low = _mm_xor_si128(_mm_clmulepi64_si128(v, t.w, 0x00), _mm_clmulepi64_si128(v, t.u, 0x01));
    __m128i middle = _mm_xor_si128(_mm_clmulepi64_si128(v, t.w, 0x10), _mm_clmulepi64_si128(v, t.u, 0x11));
    return folded128(low, middle);
}

static ALWAYS AVX2 __m128i times128(__m128i a, __m128i b) {
    const __m128i fold = _mm_set_epi64x(FOLD, FOLD);
    __m128i low = _mm_clmulepi64_si128(a, b, 0x00), high = _mm_clmulepi64_si128(a, b, 0x11);
    __m128i middle = _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10));
    /* high = h1 z^64 + h0: h1 z^192 = (h1 * fold) z^64, h0 z^128 = h0 * fold */
    middle = _mm_xor_si128(middle, _mm_clmulepi64_si128(high, fold, 0x01));
    low = _mm_xor_si128(low, _mm_clmulepi64_si128(high, fold, 0x00));
    return folded128(low, middle);
}

static ALWAYS AVX2 __m128i xor128(__m128i a, __m128i b) { return _mm_xor_si128(a, b); }

static AVX2 void leaf128(const uint64_t *table, uint64_t *x, uint64_t *t, size_t c) {
    (void)table;
    (void)c;
    store128(t, times128(load128(t), load128(x)));
}

static AVX2 void leaf_alone128(const uint64_t *table, uint64_t *f, size_t c, int how) {
    (void)table;
    (void)f;
    (void)c;
    (void)how;
}

#define TARGET AVX2
#define PREFIX(name) qkdd_avx2_##name
#define VEC __m128i
#define LANES 1
#define LEAF 1
#define load load128
#define store store128
#define add xor128
#define TWIDDLE twiddle128
#define twiddle_of twiddle128_of
#define times_twiddle times_twiddle128
#define times times128
#define leaf leaf128
#define leaf_alone leaf_alone128
#include "fft.h"
#undef TARGET
#undef PREFIX
#undef VEC
#undef LANES
#undef LEAF
#undef load
#undef store
#undef add
#undef TWIDDLE
#undef twiddle_of
#undef times_twiddle
#undef times
#undef leaf
#undef leaf_alone
#undef FORWARD
#undef DUALLY
#undef BACKWARD

/* ---- four elements a vector ---- */

typedef struct {
    __m512i w, u;
} twiddle512;

#define XOR3 0x96 /* ternary logic: a ^ b ^ c */

static ALWAYS AVX512 __m512i load512(const uint64_t *p) { return _mm512_loadu_si512(p); }
static ALWAYS AVX512 void store512(uint64_t *p, __m512i v) { _mm512_storeu_si512(p, v); }
static ALWAYS AVX512 __m512i xor512(__m512i a, __m512i b) { return _mm512_xor_si512(a, b); }

static ALWAYS AVX512 twiddle512 twiddle512_of(const uint64_t *table, size_t c) {
    __m256i both = entry(table, c);
    return (twiddle512){_mm512_broadcast_i64x2(_mm256_castsi256_si128(both)),
                        _mm512_broadcast_i64x2(_mm256_extracti128_si256(both, 1))};
}

static ALWAYS AVX512 __m512i folded512(__m512i low, __m512i low2, __m512i middle) {
    __m512i folded = _mm512_clmulepi64_epi128(middle, _mm512_set1_epi64(FOLD), 0x01);
    return _mm512_ternarylogic_epi64(_mm512_xor_si512(low, low2), _mm512_bslli_epi128(middle, 8), folded, XOR3);
}

static ALWAYS AVX512 __m512i times_twiddle512(__m512i v, twiddle512 t) {
    __m512i middle = _mm512_xor_si512(_mm512_clmulepi64_epi128(v, t.w, 0x10), _mm512_clmulepi64_epi128(v, t.u, 0x11));
    return folded512(_mm512_clmulepi64_epi128(v, t.w, 0x00), _mm512_clmulepi64_epi128(v, t.u, 0x01), middle);
}

static ALWAYS AVX512 __m512i times512(__m512i a, __m512i b) {
    const __m512i fold = _mm512_set1_epi64(FOLD);
    __m512i low = _mm512_clmulepi64_epi128(a, b, 0x00), high = _mm512_clmulepi64_epi128(a, b, 0x11);
    __m512i middle = _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(a, b, 0x01), _mm512_clmulepi64_epi128(a, b, 0x10),
                                               _mm512_clmulepi64_epi128(high, fold, 0x01), XOR3);
    return folded512(low, _mm512_clmulepi64_epi128(high, fold, 0x00), middle);
}

/* The twiddles of neighbouring blocks, one a lane: phi is linear, so lane l adds phi(2 * offset[l]). */
static ALWAYS AVX512 twiddle512 spread(const uint64_t *table, size_t c, int o1, int o2, int o3) {
    twiddle512 t = twiddle512_of(table, c);
    const int offsets[4] = {0, o1, o2, o3};
    __m512i w = _mm512_setzero_si512(), u = w;
    for (int l = 1; l < 4; l++) {
        __mmask8 lane = (__mmask8)(3u << (2 * l));
        w = _mm512_mask_broadcast_i64x2(w, lane, load128(table + 4 * offsets[l]));
        u = _mm512_mask_broadcast_i64x2(u, lane, load128(table + 4 * offsets[l] + 2));
    }
    return (twiddle512){_mm512_xor_si512(t.w, w), _mm512_xor_si512(t.u, u)};
}

#define FORWARD(a, b, w) (a = xor512(a, times_twiddle512(b, w)), b = xor512(b, a))
#define DUALLY(a, b, w) (b = xor512(b, times_twiddle512(a, w)), a = xor512(a, b))
#define BACKWARD(a, b, w) (a = xor512(a, b), b = xor512(b, times_twiddle512(a, w)))

typedef struct {
    twiddle512 w2, w1, w0;
} twiddles512;

static ALWAYS AVX512 twiddles512 leaf_twiddles(const uint64_t *table, size_t c) {
    return (twiddles512){twiddle512_of(table, c), spread(table, 2 * c, 0, 1, 1), spread(table, 4 * c, 2, 1, 3)};
}

/* Eight elements; the last two levels lie inside the vectors, whose lanes are exchanged: (a0 a1 a2 a3) (b0 b1 b2 b3) ->
 * (a0 a1 b0 b1) (a2 a3 b2 b3) -> (a0 b0 a2 b2) (a1 b1 a3 b3). The transformed values stay in this order. */
static ALWAYS AVX512 void halves(__m512i *p, __m512i *q, int low, int high) {
    __m512i s = low == 0x44 ? _mm512_shuffle_i64x2(*p, *q, 0x44) : _mm512_shuffle_i64x2(*p, *q, 0x88);
    *q = high == 0xEE ? _mm512_shuffle_i64x2(*p, *q, 0xEE) : _mm512_shuffle_i64x2(*p, *q, 0xDD);
    *p = s;
}

static ALWAYS AVX512 void leaf_down(__m512i *p, __m512i *q, twiddles512 w, int how) {
    __m512i a = *p, b = *q;
    if (how == QKDD_MATRIX) {
        FORWARD(a, b, w.w2);
        halves(&a, &b, 0x44, 0xEE);
        FORWARD(a, b, w.w1);
        halves(&a, &b, 0x88, 0xDD);
        FORWARD(a, b, w.w0);
    } else {
        DUALLY(a, b, w.w2);
        halves(&a, &b, 0x44, 0xEE);
        DUALLY(a, b, w.w1);
        halves(&a, &b, 0x88, 0xDD);
        DUALLY(a, b, w.w0);
    }
    *p = a;
    *q = b;
}

static ALWAYS AVX512 void leaf_up(__m512i *p, __m512i *q, twiddles512 w) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i a = *p, b = *q, s;
    BACKWARD(a, b, w.w0);
    s = _mm512_permutex2var_epi64(a, first, b), b = _mm512_permutex2var_epi64(a, second, b), a = s;
    BACKWARD(a, b, w.w1);
    halves(&a, &b, 0x44, 0xEE);
    BACKWARD(a, b, w.w2);
    *p = a;
    *q = b;
}

static AVX512 void leaf512(const uint64_t *table, uint64_t *x, uint64_t *t, size_t c) {
    twiddles512 w = leaf_twiddles(table, c);
    __m512i a = load512(x), b = load512(x + 8), p = load512(t), q = load512(t + 8);
    leaf_down(&a, &b, w, QKDD_MATRIX);
    leaf_down(&p, &q, w, QKDD_DUAL);
    p = times512(p, a);
    q = times512(q, b);
    leaf_up(&p, &q, w);
    store512(t, p);
    store512(t + 8, q);
}

static AVX512 void leaf_alone512(const uint64_t *table, uint64_t *f, size_t c, int how) {
    twiddles512 w = leaf_twiddles(table, c);
    __m512i p = load512(f), q = load512(f + 8);
    if (how == QKDD_TRANSPOSE)
        leaf_up(&p, &q, w);
    else
        leaf_down(&p, &q, w, how);
    store512(f, p);
    store512(f + 8, q);
}

#undef FORWARD
#undef DUALLY
#undef BACKWARD
#define TARGET AVX512
#define PREFIX(name) qkdd_avx512_##name
#define VEC __m512i
#define LANES 4
#define LEAF 8
#define load load512
#define store store512
#define add xor512
#define TWIDDLE twiddle512
#define twiddle_of twiddle512_of
#define times_twiddle times_twiddle512
#define times times512
#define leaf leaf512
#define leaf_alone leaf_alone512
#include "fft.h"

#endif
