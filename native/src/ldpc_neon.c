/* SPDX-License-Identifier: Apache-2.0
 * The LDPC decoder's layers for NEON: 32 lanes in two vectors. */
#include "ldpc.h"

#if defined(__aarch64__)
#include <arm_neon.h>

typedef int8x16x2_t pair;
#define EACH(name, f) \
    static inline pair name(pair x, pair y) { return (pair){{f(x.val[0], y.val[0]), f(x.val[1], y.val[1])}}; }
static inline int8x16_t least_of(int8x16_t x, int8x16_t y) {
    return vreinterpretq_s8_u8(vminq_u8(vreinterpretq_u8_s8(x), vreinterpretq_u8_s8(y)));
}
static inline int8x16_t most_of(int8x16_t x, int8x16_t y) {
    return vreinterpretq_s8_u8(vmaxq_u8(vreinterpretq_u8_s8(x), vreinterpretq_u8_s8(y)));
}
static inline int8x16_t with_sign(int8x16_t size, int8x16_t sign) {
    const int8x16_t mask = vshrq_n_s8(sign, 7);
    return vsubq_s8(veorq_s8(size, mask), mask);
}
EACH(pair_xor, veorq_s8)
EACH(pair_subs, vqsubq_s8)
EACH(pair_adds, vqaddq_s8)
EACH(pair_min, least_of)
EACH(pair_max, most_of)
EACH(pair_signed, with_sign)
static inline pair pair_load(const void *p) { return (pair){{vld1q_s8(p), vld1q_s8((const int8_t *)p + 16)}}; }
static inline void pair_store(void *p, pair x) {
    vst1q_s8(p, x.val[0]);
    vst1q_s8((int8_t *)p + 16, x.val[1]);
}
static inline pair pair_one(int8_t x) { return (pair){{vdupq_n_s8(x), vdupq_n_s8(x)}}; }
static inline pair pair_size(pair x) { return (pair){{vabsq_s8(x.val[0]), vabsq_s8(x.val[1])}}; }
static inline size_t pair_negative(pair x) {
    const uint8x16_t a = vshrq_n_u8(vreinterpretq_u8_s8(x.val[0]), 7), b = vshrq_n_u8(vreinterpretq_u8_s8(x.val[1]), 7);
    return vaddvq_u8(vaddq_u8(a, b));
}
static inline pair pair_pick(pair a, pair b, pair x, pair y) {
    return (pair){{vbslq_s8(vceqq_s8(a.val[0], b.val[0]), x.val[0], y.val[0]),
                   vbslq_s8(vceqq_s8(a.val[1], b.val[1]), x.val[1], y.val[1])}};
}
static inline pair pair_lookup(pair x, const uint8_t *table) {
    const uint8x16x4_t all = vld1q_u8_x4(table);
    return (pair){{vreinterpretq_s8_u8(vqtbl4q_u8(all, vreinterpretq_u8_s8(x.val[0]))),
                   vreinterpretq_s8_u8(vqtbl4q_u8(all, vreinterpretq_u8_s8(x.val[1])))}};
}

#define TARGET
#define NAME(x) qkdd_neon_##x
#define V pair
#define LANES 32
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
