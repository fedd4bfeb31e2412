/* SPDX-License-Identifier: Apache-2.0
 * Template of the recursive Toeplitz square; included once for every variant with
 *   SQUARE  name of the function to define      TARGET  its target attribute
 *   LEAF    the variant's schoolbook product    (out, x, t, k): out[k] ^= square with diagonal words t[2k], times x[k]
 *
 * Two-way split of Fan and Hasan (IEEE Trans. Comput. 56 (2007) 224), the transposed Karatsuba product, which yields only the
 * middle half of the product, the half that is wanted:
 *     [T1 T0] [V0]   [P0 + P2]     P0 = (T0 + T1) V1, P1 = (T1 + T2) V0, P2 = T1 (V0 + V1).
 *     [T2 T1] [V1] = [P1 + P2]
 * temporary: 3 k words. Nothing depends on the bits. */
TARGET void SQUARE(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k, unsigned levels,
                          uint64_t *temporary) {
    if (levels == 0) {
        LEAF(out, x, t, k);
        return;
    }
    size_t h = k / 2;
    uint64_t *sum = temporary, *part = sum + k, *next = part + h;
    /* In t the word index grows with i - j: T0 (upper right) is t[0 .. k), T1 t[h .. h + k), T2 (lower left) t[k .. 2k). */
    for (size_t i = 0; i < k; i++) sum[i] = t[i] ^ t[h + i];
    SQUARE(out, x + h, sum, h, levels - 1, next);
    for (size_t i = 0; i < k; i++) sum[i] = t[h + i] ^ t[k + i];
    SQUARE(out + h, x, sum, h, levels - 1, next);
    for (size_t i = 0; i < h; i++) sum[i] = x[i] ^ x[h + i];
    memset(part, 0, h * sizeof *part);
    SQUARE(part, sum, t + h, h, levels - 1, next);
    for (size_t i = 0; i < h; i++) {
        out[i] ^= part[i];
        out[h + i] ^= part[i];
    }
}
