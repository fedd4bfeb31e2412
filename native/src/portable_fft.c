/* SPDX-License-Identifier: Apache-2.0
 * The additive transform of fft.h in plain C. */
#include "clmul.h"
#include "internal.h"

typedef struct {
    uint64_t low, high;
} element;

typedef struct {
    element w, u; /* u = w * z^64 */
} twiddle;

static inline element load_element(const uint64_t *p) { return (element){p[0], p[1]}; }

static inline void store_element(uint64_t *p, element v) {
    p[0] = v.low;
    p[1] = v.high;
}

static inline element sum(element a, element b) { return (element){a.low ^ b.low, a.high ^ b.high}; }

static inline twiddle twiddle_at(const uint64_t *table, size_t c) {
    uint64_t v[4] = {0};
    for (size_t row = 0; row < 4; row++)
        for (size_t i = 0; i < 4; i++) v[i] ^= table[1024 * row + 4 * (c >> 8 * row & 255) + i];
    return (twiddle){{v[0], v[1]}, {v[2], v[3]}};
}

/* low + middle z^64 + top z^128, modulo z^128 + z^7 + z^2 + z + 1 */
static inline element folded(uint64_t low, uint64_t middle, uint64_t top) {
    return (element){low ^ top ^ (top << 1) ^ (top << 2) ^ (top << 7),
                     middle ^ (top >> 63) ^ (top >> 62) ^ (top >> 57)};
}

static inline element by_twiddle(element v, twiddle t) {
    uint64_t l0, h0, l1, h1, l2, h2, l3, h3;
    carryless(v.low, t.w.low, &l0, &h0);
    carryless(v.high, t.u.low, &l1, &h1);
    carryless(v.low, t.w.high, &l2, &h2);
    carryless(v.high, t.u.high, &l3, &h3);
    return folded(l0 ^ l1, h0 ^ h1 ^ l2 ^ l3, h2 ^ h3);
}

static inline element product(element a, element b) {
    twiddle t = {b, folded(0, b.low, b.high)};
    return by_twiddle(a, t);
}

static void multiply_values(const uint64_t *table, uint64_t *x, uint64_t *t, size_t c) {
    (void)table;
    (void)c;
    store_element(t, product(load_element(t), load_element(x)));
}

static void no_level(const uint64_t *table, uint64_t *f, size_t c, int how) {
    (void)table;
    (void)f;
    (void)c;
    (void)how;
}

#define TARGET
#define PREFIX(name) qkdd_portable_##name
#define VEC element
#define LANES 1
#define LEAF 1
#define load load_element
#define store store_element
#define add sum
#define TWIDDLE twiddle
#define twiddle_of twiddle_at
#define times_twiddle by_twiddle
#define times product
#define leaf multiply_values
#define leaf_alone no_level
#include "fft.h"
