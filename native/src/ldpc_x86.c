/* SPDX-License-Identifier: Apache-2.0
 * The LDPC decoder's layers for AVX2 (32 lanes). */
#include "ldpc.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,popcnt"))) static inline
AVX2 __m256i avx2_lookup(__m256i a, const uint8_t *table) {
    __m256i out = _mm256_setzero_si256();
    for (int part = 0; part < 4; part++) {
        __m256i quarter = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(table + 16 * part)));
        __m256i here = _mm256_cmpeq_epi8(_mm256_and_si256(a, _mm256_set1_epi8(0x30)), _mm256_set1_epi8((char)(16 * part)));
        __m256i found = _mm256_shuffle_epi8(quarter, _mm256_and_si256(a, _mm256_set1_epi8(15)));
        out = _mm256_or_si256(out, _mm256_and_si256(found, here));
    }
    return out;
}
AVX2 __m256i avx2_size(__m256i a) { return _mm256_abs_epi8(a); }
AVX2 __m256i avx2_out(int8_t *place, __m256i in, __m256i least, __m256i usual, __m256i other, __m256i sign) {
    __m256i size = _mm256_blendv_epi8(usual, other, _mm256_cmpeq_epi8(avx2_size(in), least));
    __m256i mask = _mm256_cmpgt_epi8(_mm256_setzero_si256(), _mm256_xor_si256(sign, in));
    __m256i out = _mm256_sub_epi8(_mm256_xor_si256(size, mask), mask);
    _mm256_storeu_si256((__m256i *)(void *)place, out);
    return out;
}

#define TARGET __attribute__((target("avx2,popcnt")))
#define NAME(x) qkdd_avx2_##x
#define V __m256i
#define LANES 32
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define STORE(p, a) _mm256_store_si256((__m256i *)(void *)(p), a)
#define ONE(x) _mm256_set1_epi8(x)
#define XOR _mm256_xor_si256
#define SUBS _mm256_subs_epi8
#define ADDS _mm256_adds_epi8
#define SIZE avx2_size
#define MIN _mm256_min_epu8
#define MAX _mm256_max_epu8
#define LOOKUP avx2_lookup
#define NEGATIVE(a) ((size_t)__builtin_popcount((unsigned)_mm256_movemask_epi8(a)))
#define MESSAGE(slot) LOAD(state->messages + (slot)*LANES)
#define OUT(slot, in, least, usual, other, sign) avx2_out(state->messages + (slot)*LANES, in, least, usual, other, sign)
#include "ldpc_layer.h"
#endif
