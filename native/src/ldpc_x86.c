/* SPDX-License-Identifier: Apache-2.0
 * The LDPC decoder's layers for AVX2: 64 lanes in two vectors, a line of the cache. */
#include "ldpc.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,popcnt"))) static inline
typedef struct {
    __m256i a, b;
} pair;
#define EACH(name, f) \
    AVX2 pair name(pair x, pair y) { return (pair){f(x.a, y.a), f(x.b, y.b)}; }
EACH(pair_xor, _mm256_xor_si256)
EACH(pair_subs, _mm256_subs_epi8)
EACH(pair_adds, _mm256_adds_epi8)
EACH(pair_min, _mm256_min_epu8)
EACH(pair_max, _mm256_max_epu8)
AVX2 pair pair_load(const void *p) {
    const __m256i_u *from = p;
    return (pair){_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
}
AVX2 void pair_store(void *p, pair x) {
    __m256i *to = p;
    _mm256_store_si256(to, x.a);
    _mm256_store_si256(to + 1, x.b);
}
AVX2 pair pair_one(int8_t x) { return (pair){_mm256_set1_epi8(x), _mm256_set1_epi8(x)}; }
AVX2 pair pair_size(pair x) { return (pair){_mm256_abs_epi8(x.a), _mm256_abs_epi8(x.b)}; }
AVX2 size_t pair_negative(pair x) {
    return (size_t)(__builtin_popcount((unsigned)_mm256_movemask_epi8(x.a)) + __builtin_popcount((unsigned)_mm256_movemask_epi8(x.b)));
}
/* zero is positive */
AVX2 __m256i with_sign(__m256i size, __m256i sign) { return _mm256_sign_epi8(size, _mm256_or_si256(sign, _mm256_set1_epi8(1))); }
EACH(pair_signed, with_sign)
AVX2 pair pair_pick(pair a, pair b, pair x, pair y) {
    return (pair){_mm256_blendv_epi8(y.a, x.a, _mm256_cmpeq_epi8(a.a, b.a)), _mm256_blendv_epi8(y.b, x.b, _mm256_cmpeq_epi8(a.b, b.b))};
}
/* Quarters of the table by bits 0 to 3, of them one by bits 4 and 5. */
AVX2 __m256i lookup(__m256i a, const uint8_t *table) {
    __m256i found[4];
    for (int part = 0; part < 4; part++)
        found[part] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(table + 16 * part))), a);
    const __m256i odd = _mm256_slli_epi16(a, 3), upper = _mm256_slli_epi16(a, 2);
    return _mm256_blendv_epi8(_mm256_blendv_epi8(found[0], found[1], odd), _mm256_blendv_epi8(found[2], found[3], odd), upper);
}
AVX2 pair pair_lookup(pair x, const uint8_t *table) { return (pair){lookup(x.a, table), lookup(x.b, table)}; }

#define TARGET __attribute__((target("avx2,popcnt")))
#define NAME(x) qkdd_avx2_##x
#define V pair
#define LANES 64
#define LOAD pair_load
#define STORE pair_store
#define ONE pair_one
#define XOR pair_xor
#define SUBS pair_subs
#define ADDS pair_adds
#define SIZE pair_size
#define MIN pair_min
#define MAX pair_max
#define LOOKUP pair_lookup
#define NEGATIVE pair_negative
#define SIGNED pair_signed
#define PICK pair_pick
#include "ldpc_layer.h"
#endif
