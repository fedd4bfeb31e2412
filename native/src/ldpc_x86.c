/* SPDX-License-Identifier: Apache-2.0
 * The LDPC decoder's layers for AVX2 (32 lanes) and AVX-512BW (64 lanes). */
#include "ldpc.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,popcnt")))
#define NAME(x) qkdd_avx2_##x
#define V __m256i
#define LANES 32
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STORE(p, a) _mm256_storeu_si256((__m256i *)(void *)(p), a)
#define ONE(x) _mm256_set1_epi8(x)
#define XOR _mm256_xor_si256
#define SUB _mm256_sub_epi8
#define ADD _mm256_add_epi8
#define ABS _mm256_abs_epi8
#define MIN _mm256_min_epu8
#define MAX _mm256_max_epu8
#define CLIP(a) _mm256_max_epi8(_mm256_min_epi8(a, ONE(LDPC_CLIP)), ONE(-LDPC_CLIP))
#define SAME(a, b, x, y) _mm256_blendv_epi8(y, x, _mm256_cmpeq_epi8(a, b))
#define NEGATIVE(a) ((size_t)__builtin_popcount((unsigned)_mm256_movemask_epi8(a)))
TARGET static inline __m256i avx2_signed(__m256i a, __m256i s) {
    __m256i mask = _mm256_cmpgt_epi8(_mm256_setzero_si256(), s);
    return _mm256_sub_epi8(_mm256_xor_si256(a, mask), mask);
}
TARGET static inline __m256i avx2_lookup(__m256i a, const uint8_t *table) {
    __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)table));
    __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(table + 16)));
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(low, a), _mm256_shuffle_epi8(high, a),
                              _mm256_cmpgt_epi8(a, _mm256_set1_epi8(15)));
}
#define SIGNED avx2_signed
#define LOOKUP avx2_lookup
#include "ldpc_layer.h"

#undef TARGET
#undef NAME
#undef V
#undef LANES
#undef LOAD
#undef STORE
#undef ONE
#undef XOR
#undef SUB
#undef ADD
#undef ABS
#undef MIN
#undef MAX
#undef CLIP
#undef SAME
#undef NEGATIVE
#undef SIGNED
#undef LOOKUP

#define TARGET __attribute__((target("avx512f,avx512bw,popcnt")))
#define NAME(x) qkdd_avx512_##x
#define V __m512i
#define LANES 64
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, a) _mm512_storeu_si512(p, a)
#define ONE(x) _mm512_set1_epi8(x)
#define XOR _mm512_xor_si512
#define SUB _mm512_sub_epi8
#define ADD _mm512_add_epi8
#define ABS _mm512_abs_epi8
#define MIN _mm512_min_epu8
#define MAX _mm512_max_epu8
#define CLIP(a) _mm512_max_epi8(_mm512_min_epi8(a, ONE(LDPC_CLIP)), ONE(-LDPC_CLIP))
#define SAME(a, b, x, y) _mm512_mask_blend_epi8(_mm512_cmpeq_epi8_mask(a, b), y, x)
#define NEGATIVE(a) ((size_t)__builtin_popcountll(_mm512_movepi8_mask(a)))
TARGET static inline __m512i avx512_lookup(__m512i a, const uint8_t *table) {
    __m512i low = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)table));
    __m512i high = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(table + 16)));
    return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, a), _mm512_cmpgt_epi8_mask(a, _mm512_set1_epi8(15)), high, a);
}
TARGET static inline __m512i avx512_signed(__m512i a, __m512i s) {
    return _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(s), _mm512_setzero_si512(), a);
}
#define SIGNED avx512_signed
#define LOOKUP avx512_lookup
#include "ldpc_layer.h"
#endif
