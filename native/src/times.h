/* SPDX-License-Identifier: Apache-2.0
 * Template of the loops over times and bit matrices that the compiler makes vectors of; included once for every variant with
 * TARGET and PREFIX(name). All variants round alike: one multiplication, one addition, one rounding to the nearest, in doubles. */

TARGET int PREFIX(sorted)(const int64_t *t, size_t n) {
    int64_t back = 0;
    for (size_t i = 1; i < n; i++) back |= -(int64_t)(t[i] < t[i - 1]);
    return back == 0;
}

/* Another clock's times mapped into this one's. Monotonic, because |drift| < 1 and rint is monotonic. */
TARGET void PREFIX(map_times)(const int64_t *t, size_t n, double delay, double drift, int64_t origin,
                              int64_t *restrict mapped) {
    if (drift == 0) {
        int64_t shift = (int64_t)rint(delay);
        for (size_t i = 0; i < n; i++) mapped[i] = t[i] + shift;
        return;
    }
    for (size_t i = 0; i < n; i++) mapped[i] = t[i] + (int64_t)rint(delay + drift * (double)(t[i] - origin));
}

/* out[i] = floor((t[i] - origin) * rate) mod fold, or UINT32_MAX where the floor is not in 0 .. cells - 1. cells < 2^52, so every
 * step but the first multiplication is exact; the quotient by multiplication is off by one at most. */
TARGET void PREFIX(fold_cells)(const int64_t *t, size_t n, int64_t origin, double rate, double cells, double fold,
                               uint32_t *restrict out) {
    const double inverse = 1 / fold;
    if (cells <= fold) { /* nothing to fold */
        for (size_t i = 0; i < n; i++) {
            double cell = floor((double)(t[i] - origin) * rate);
            int inside = (cell >= 0) & (cell < cells);
            out[i] = inside ? (uint32_t)(int64_t)cell : UINT32_MAX;
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        double cell = floor((double)(t[i] - origin) * rate);
        double folded = cell - floor(cell * inverse) * fold;
        folded += folded < 0 ? fold : 0;
        folded -= folded >= fold ? fold : 0;
        int inside = (cell >= 0) & (cell < cells);
        out[i] = inside ? (uint32_t)(int64_t)folded : UINT32_MAX;
    }
}

/* out[i] = v[2i] + v[2i + 1] - less */
TARGET void PREFIX(pair_sums)(const float *v, size_t n, float less, float *restrict out) {
    for (size_t i = 0; i < n; i++) out[i] = v[2 * i] + v[2 * i + 1] - less;
}

/* Is a value or the sum of two neighbours above the limit? Reads v[n]. */
TARGET int PREFIX(any_above)(const float *v, size_t n, float alone, float twin, float limit) {
    int any = 0;
    for (size_t i = 0; i < n; i++) any |= (alone * v[i] > limit) | (twin * (v[i] + v[i + 1]) > limit);
    return any;
}

TARGET void PREFIX(add_rows)(const uint32_t *a, const uint32_t *b, size_t n, uint32_t *restrict sums) {
    for (size_t i = 0; i < n; i++) sums[i] = a[i] + b[i];
}

/* Largest a[i] + a[i + 1], i < n */
TARGET uint32_t PREFIX(best_twin)(const uint32_t *a, size_t n) {
    uint32_t best = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t twin = a[i] + a[i + 1];
        best = twin > best ? twin : best;
    }
    return best;
}

/* Exchange the bit blocks off the diagonal: high half of v[k] with low half of v[k + step], in squares of 2 step. */
#define EXCHANGE(step, mask)                                              \
    for (unsigned k = 0; k < 64; k += 2 * (step))                         \
        for (unsigned i = k; i < k + (step); i++) {                       \
            uint64_t both = ((v[i] >> (step)) ^ v[i + (step)]) & (mask);  \
            v[i] ^= both << (step);                                       \
            v[i + (step)] ^= both;                                        \
        }

/* out[x][y] = in[y][x] for a matrix of 64 rows by 64 columns of bits in every square; rows of in_words and out_words words. */
TARGET void PREFIX(transpose)(const uint64_t *in, size_t in_words, uint64_t *out, size_t out_words) {
    for (size_t y = 0; y < out_words; y++)
        for (size_t x = 0; x < in_words; x++) {
            uint64_t v[64];
            for (size_t i = 0; i < 64; i++) v[i] = in[(64 * y + i) * in_words + x];
            EXCHANGE(32, 0x00000000FFFFFFFFu)
            EXCHANGE(16, 0x0000FFFF0000FFFFu)
            EXCHANGE(8, 0x00FF00FF00FF00FFu)
            EXCHANGE(4, 0x0F0F0F0F0F0F0F0Fu)
            EXCHANGE(2, 0x3333333333333333u)
            EXCHANGE(1, 0x5555555555555555u)
            for (size_t i = 0; i < 64; i++) out[(64 * x + i) * out_words + y] = v[i];
        }
}
#undef EXCHANGE
