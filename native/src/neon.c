/* SPDX-License-Identifier: Apache-2.0
 * aarch64 variant: carry-less products by PMULL (the crypto extension), CRC by its own instructions; LDPC is in ldpc_neon.c. The loops
 * of times.h and the packing of bits are the portable ones: the compiler makes vectors of them, NEON being part of every aarch64. */
#if defined(__aarch64__)

#include <arm_acle.h>
#include <arm_neon.h>

#include "internal.h"

#define NEON __attribute__((target("+crypto+crc")))
#define ALWAYS inline __attribute__((always_inline))

NEON uint32_t qkdd_neon_crc32c(const uint8_t *data, size_t size) {
    uint32_t crc = 0xFFFFFFFFu;
    for (; size >= 8; size -= 8, data += 8) crc = __crc32cd(crc, load_le64(data));
    for (; size > 0; size--, data++) crc = __crc32cb(crc, *data);
    return ~crc;
}

static ALWAYS NEON uint64x2_t product(uint64_t a, uint64_t b) {
    return vreinterpretq_u64_p128(vmull_p64((poly64_t)a, (poly64_t)b));
}

static ALWAYS NEON uint64x2_t low_low(uint64x2_t a, uint64x2_t b) { return product(vgetq_lane_u64(a, 0), vgetq_lane_u64(b, 0)); }
static ALWAYS NEON uint64x2_t low_high(uint64x2_t a, uint64x2_t b) { return product(vgetq_lane_u64(a, 0), vgetq_lane_u64(b, 1)); }
static ALWAYS NEON uint64x2_t high_low(uint64x2_t a, uint64x2_t b) { return product(vgetq_lane_u64(a, 1), vgetq_lane_u64(b, 0)); }
static ALWAYS NEON uint64x2_t high_high(uint64x2_t a, uint64x2_t b) {
    return vreinterpretq_u64_p128(vmull_high_p64(vreinterpretq_p64_u64(a), vreinterpretq_p64_u64(b)));
}

static ALWAYS NEON uint64x2_t zero(void) { return vdupq_n_u64(0); }
static ALWAYS NEON uint64x2_t up(uint64x2_t v) { return vextq_u64(zero(), v, 1); }   /* low word to high, 0 below */
static ALWAYS NEON uint64x2_t down(uint64x2_t v) { return vextq_u64(v, zero(), 1); } /* high word to low, 0 above */
static ALWAYS NEON uint64x2_t turned(uint64x2_t v) { return vextq_u64(v, v, 1); }

/* ---- GF(2^128), see x86.c ---- */

static ALWAYS NEON uint64x2_t reversed(const uint8_t *block) {
    uint8x16_t bytes = vrev64q_u8(vld1q_u8(block));
    return vreinterpretq_u64_u8(vextq_u8(bytes, bytes, 8));
}

static ALWAYS NEON uint64x2_t joined(uint64x2_t low, uint64x2_t middle, uint64x2_t high) {
    low = veorq_u64(low, up(middle));
    high = veorq_u64(high, down(middle));
    uint64x2_t first = veorq_u64(veorq_u64(vshlq_n_u64(low, 63), vshlq_n_u64(low, 62)), vshlq_n_u64(low, 57));
    low = veorq_u64(low, up(first));
    uint64x2_t second = veorq_u64(veorq_u64(vshrq_n_u64(low, 1), vshrq_n_u64(low, 2)), vshrq_n_u64(low, 7));
    return veorq_u64(veorq_u64(high, down(first)), veorq_u64(low, second));
}

static ALWAYS NEON uint64x2_t multiply(uint64x2_t a, uint64x2_t b) {
    return joined(low_low(a, b), veorq_u64(low_high(a, b), high_low(a, b)), high_high(a, b));
}

NEON void qkdd_neon_polyval_multiply(const uint64_t a[2], const uint64_t b[2], uint64_t result[2]) {
    vst1q_u64(result, multiply(vld1q_u64(a), vld1q_u64(b)));
}

/* Eight blocks at once: sum of x_i H^(8-i) with one reduction; three multiplications a block (Karatsuba). */
NEON void qkdd_neon_ghash_blocks(qkdd_poly_hash *state, const uint8_t *data, size_t blocks) {
    uint64x2_t sum = vld1q_u64(state->sum);
    if (blocks >= 8) {
        uint64x2_t power[8], folded[8];
        for (int i = 0; i < 8; i++) {
            power[i] = vld1q_u64(state->powers[7 - i]);
            folded[i] = veorq_u64(power[i], turned(power[i]));
        }
        for (; blocks >= 8; blocks -= 8, data += 128) {
            uint64x2_t low = zero(), middle = low, high = low;
#pragma GCC unroll 8
            for (int i = 7; i >= 0; i--) { /* the block that waits for the round before comes last */
                uint64x2_t x = reversed(data + 16 * i);
                if (i == 0) x = veorq_u64(x, sum);
                low = veorq_u64(low, low_low(x, power[i]));
                high = veorq_u64(high, high_high(x, power[i]));
                middle = veorq_u64(middle, low_low(veorq_u64(x, turned(x)), folded[i]));
            }
            sum = joined(low, veorq_u64(middle, veorq_u64(low, high)), high);
        }
        wipe(power, sizeof power);
        wipe(folded, sizeof folded);
    }
    const uint64x2_t first = vld1q_u64(state->powers[0]);
    for (; blocks > 0; blocks--, data += 16) sum = multiply(veorq_u64(sum, reversed(data)), first);
    vst1q_u64(state->sum, sum);
}

/* ---- Toeplitz ---- */

/* See leaf_of in x86.c: two neighbours of x meet two of t crosswise in the same diagonal. */
static NEON void pmull_leaf(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k) {
    uint64_t before = 0;
    for (size_t i = 0; i <= k; i++) { /* diagonal i - 1 */
        uint64x2_t diagonal = zero();
        for (size_t j = 0; j < k; j += 2) {
            uint64x2_t a = vld1q_u64(x + j), b = vld1q_u64(t + (k + i - 2 - j));
            diagonal = veorq_u64(diagonal, veorq_u64(low_high(a, b), high_low(a, b)));
        }
        if (i > 0) out[i - 1] ^= vgetq_lane_u64(diagonal, 0) ^ before;
        before = vgetq_lane_u64(diagonal, 1);
    }
}

#define TARGET NEON
#define SQUARE qkdd_neon_square
#define LEAF pmull_leaf
#include "square.h"
#undef SQUARE
#undef LEAF

/* ---- the additive transform, one element a vector, see x86_fft.c ---- */

#define FOLD 0x87 /* z^128 = z^7 + z^2 + z + 1 */

typedef struct {
    uint64x2_t w, u; /* u = w * z^64 */
} twiddle;

static ALWAYS NEON uint64x2_t load(const uint64_t *p) { return vld1q_u64(p); }
static ALWAYS NEON void store(uint64_t *p, uint64x2_t v) { vst1q_u64(p, v); }
static ALWAYS NEON uint64x2_t add(uint64x2_t a, uint64x2_t b) { return veorq_u64(a, b); }

static ALWAYS NEON twiddle twiddle_of(const uint64_t *table, size_t c) {
    twiddle t = {zero(), zero()};
    for (size_t row = 0; row < 4; row++) {
        const uint64_t *entry = table + 1024 * row + 4 * (c >> 8 * row & 255);
        t.w = veorq_u64(t.w, vld1q_u64(entry));
        t.u = veorq_u64(t.u, vld1q_u64(entry + 2));
    }
    return t;
}

/* low + middle z^64, middle of up to 128 bits */
static ALWAYS NEON uint64x2_t folded(uint64x2_t low, uint64x2_t middle) {
    return veorq_u64(veorq_u64(low, up(middle)), product(vgetq_lane_u64(middle, 1), FOLD));
}

static ALWAYS NEON uint64x2_t times_twiddle(uint64x2_t v, twiddle t) {
    return folded(veorq_u64(low_low(v, t.w), high_low(v, t.u)), veorq_u64(low_high(v, t.w), high_high(v, t.u)));
}

static ALWAYS NEON uint64x2_t times(uint64x2_t a, uint64x2_t b) {
    uint64x2_t high = high_high(a, b);
    uint64x2_t middle = veorq_u64(veorq_u64(low_high(a, b), high_low(a, b)), product(vgetq_lane_u64(high, 1), FOLD));
    return folded(veorq_u64(low_low(a, b), product(vgetq_lane_u64(high, 0), FOLD)), middle);
}

static NEON void leaf(const uint64_t *table, uint64_t *x, uint64_t *t, size_t c) {
    (void)table;
    (void)c;
    store(t, times(load(t), load(x)));
}

static NEON void leaf_alone(const uint64_t *table, uint64_t *f, size_t c, int how) {
    (void)table;
    (void)f;
    (void)c;
    (void)how;
}

#define PREFIX(name) qkdd_neon_##name
#define VEC uint64x2_t
#define LANES 1
#define LEAF 1
#define TWIDDLE twiddle
#include "fft.h"

#endif
