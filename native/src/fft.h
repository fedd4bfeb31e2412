/* SPDX-License-Identifier: Apache-2.0
 * Template of the additive Fourier transform over GF(2^128); included once for every variant with
 *   TARGET              the variant's target attribute
 *   PREFIX(name)        name of an internal function
 *   VEC, LANES          vector of LANES elements of 16 bytes
 *   load, store, add    (unaligned) vector access, XOR
 *   TWIDDLE, twiddle_of (table, c): a constant multiplier, the same for all lanes
 *   times_twiddle       (v, twiddle)                     times       product of two vectors, lane by lane
 *   LEAF, leaf          (table, x, t, c): the whole of `middle` for LEAF elements
 *   leaf_alone          (table, f, c, how): one of its three transforms; the order of transformed values is the leaf's own
 *
 * Field: GF(2)[z] / (z^128 + z^7 + z^2 + z + 1). Cantor basis b_0 = 1, b_{i+1}^2 + b_{i+1} = b_i, s_0(X) = X,
 * s_{i+1} = s_i^2 + s_i: the coefficients of s_i are 0 and 1, and s_i(b_{i+j}) = b_j (Cantor, J. Comb. Theory A 50 (1989)
 * 285). A polynomial of 2^k coefficients is first written in the basis whose e-th element is the product of s_i over the bits i
 * of e (Lin, Chung, Han, FOCS 2014; conversion by expansions at X^(2^j) + X: Gao, Mateer, IEEE Trans. Inf. Theory 56 (2010)
 * 6265); a butterfly of level i and block c then has the twiddle phi(2c), phi(c) = sum of c_j b_j, whatever the level is.
 *
 * The middle product is the transposed product (Hanrot, Quercia, Zimmermann, AAECC 14 (2004) 415): with G = (transform after
 * conversion), the product of polynomials is G^-1 (G a . G b), so its transpose by a is G^T (G b . G^-T t): no wrapped
 * coefficient disturbs, the length need only cover t. Nothing depends on the bits. */

/* ---- conversion of bases, on runs of `stride` words; f[i] -> f[..] written as the matrix, its inverse transposed (dual), and
 * its transpose ---- */

static inline TARGET __attribute__((always_inline)) void PREFIX(add_run)(uint64_t *restrict to, const uint64_t *restrict from,
                                                                         size_t n) {
    for (size_t i = 0; i < n; i++) to[i] ^= from[i];
}

/* how: QKDD_MATRIX, QKDD_DUAL or QKDD_TRANSPOSE */

/* Division by X^high + X^low of 2 high words, high >= 2 low. */
static inline TARGET __attribute__((always_inline)) void PREFIX(divide)(uint64_t *f, size_t high, size_t low, int how) {
    if (how == QKDD_MATRIX) {
        PREFIX(add_run)(f + high, f + 2 * high - low, low);
        PREFIX(add_run)(f + low, f + high, high - low);
    } else if (how == QKDD_DUAL) {
        PREFIX(add_run)(f + 2 * high - low, f + high, low);
        PREFIX(add_run)(f + high, f + low, high - low);
    } else {
        PREFIX(add_run)(f + high, f + low, high - low);
        PREFIX(add_run)(f + 2 * high - low, f + high, low);
    }
}

/* One step of 16 elements held in local variables. */
static inline TARGET __attribute__((always_inline)) void PREFIX(divide16)(uint64_t v[16], int step, int how) {
    static const unsigned char sizes[3][2] = {{8, 2}, {4, 1}, {2, 1}};
    if (step == 2) { /* the outer conversion, four elements of four words, then the inner ones; they commute */
        PREFIX(divide)(v, 8, 4, how);
        for (int b = 0; b < 16; b += 4) PREFIX(divide)(v + b, 2, 1, how);
        return;
    }
    size_t high = sizes[step][0], low = sizes[step][1];
    for (size_t b = 0; b < 16; b += 2 * high) PREFIX(divide)(v + b, high, low, how);
}

static inline TARGET __attribute__((always_inline)) void PREFIX(convert16)(uint64_t *f, size_t stride, int how) {
    for (size_t column = 0; column < stride; column++) {
        uint64_t v[16];
        for (int i = 0; i < 16; i++) v[i] = f[(size_t)i * stride + column];
        if (how == QKDD_TRANSPOSE) {
            PREFIX(divide16)(v, 2, how);
            PREFIX(divide16)(v, 1, how);
            PREFIX(divide16)(v, 0, how);
        } else {
            PREFIX(divide16)(v, 0, how);
            PREFIX(divide16)(v, 1, how);
            PREFIX(divide16)(v, 2, how);
        }
        for (int i = 0; i < 16; i++) f[(size_t)i * stride + column] = v[i];
    }
}

static TARGET void PREFIX(convert)(uint64_t *f, unsigned k, size_t stride, int how);

static TARGET void PREFIX(expand)(uint64_t *f, unsigned k, unsigned j, size_t stride, int how) {
    for (unsigned step = 1; step <= k - j; step++) {
        unsigned a = how == QKDD_TRANSPOSE ? step : k - j + 1 - step;
        size_t high = stride << (j + a - 1), low = stride << (a - 1);
        for (size_t b = 0; b < stride << k; b += 2 * high) PREFIX(divide)(f + b, high, low, how);
    }
}

static TARGET void PREFIX(convert)(uint64_t *f, unsigned k, size_t stride, int how) {
    if (k < 2) return;
    if (k == 4 && stride == 1) {
        PREFIX(convert16)(f, 1, how);
        return;
    }
    if (k == 4 && stride == 2) {
        PREFIX(convert16)(f, 2, how);
        return;
    }
    unsigned j = 1;
    while (2 * j < k) j *= 2;
    if (how != QKDD_TRANSPOSE) {
        PREFIX(expand)(f, k, j, stride, how);
        PREFIX(convert)(f, k - j, stride << j, how);
    }
    for (size_t i = 0; i < (size_t)1 << (k - j); i++) PREFIX(convert)(f + (i * stride << j), j, stride, how);
    if (how == QKDD_TRANSPOSE) {
        PREFIX(convert)(f, k - j, stride << j, how);
        PREFIX(expand)(f, k, j, stride, how);
    }
}

/* ---- butterflies; matrix (x), dual (t on the way down), transpose (t on the way up) ---- */

#define FORWARD(a, b, w) (a = add(a, times_twiddle(b, w)), b = add(b, a))
#define DUALLY(a, b, w) (b = add(b, times_twiddle(a, w)), a = add(a, b))
#define BACKWARD(a, b, w) (a = add(a, b), b = add(b, times_twiddle(a, w)))

/* One level of `size` elements (half of them at least a vector). */
static TARGET void PREFIX(two)(const uint64_t *table, uint64_t *f, size_t size, size_t c, int how) {
    TWIDDLE w = twiddle_of(table, c);
    uint64_t *g = f + size; /* half the elements, two words each */
    for (size_t i = 0; i < size; i += 2 * LANES) {
        VEC a = load(f + i), b = load(g + i);
        if (how == QKDD_MATRIX)
            FORWARD(a, b, w);
        else if (how == QKDD_DUAL)
            DUALLY(a, b, w);
        else
            BACKWARD(a, b, w);
        store(f + i, a);
        store(g + i, b);
    }
}

/* Two levels at once. */
static inline TARGET __attribute__((always_inline)) void PREFIX(four)(const uint64_t *table, uint64_t *f, size_t size, size_t c,
                                                                      int how) {
    TWIDDLE w = twiddle_of(table, c), w0 = twiddle_of(table, 2 * c), w1 = twiddle_of(table, 2 * c + 1);
    size_t quarter = size / 2; /* words */
    for (size_t i = 0; i < quarter; i += 2 * LANES) {
        uint64_t *p = f + i;
        VEC q0 = load(p), q1 = load(p + quarter), q2 = load(p + 2 * quarter), q3 = load(p + 3 * quarter);
        if (how == QKDD_MATRIX) {
            FORWARD(q0, q2, w);
            FORWARD(q1, q3, w);
            FORWARD(q0, q1, w0);
            FORWARD(q2, q3, w1);
        } else if (how == QKDD_DUAL) {
            DUALLY(q0, q2, w);
            DUALLY(q1, q3, w);
            DUALLY(q0, q1, w0);
            DUALLY(q2, q3, w1);
        } else {
            BACKWARD(q0, q1, w0);
            BACKWARD(q2, q3, w1);
            BACKWARD(q0, q2, w);
            BACKWARD(q1, q3, w);
        }
        store(p, q0);
        store(p + quarter, q1);
        store(p + 2 * quarter, q2);
        store(p + 3 * quarter, q3);
    }
}

static TARGET void PREFIX(four_matrix)(const uint64_t *table, uint64_t *f, size_t size, size_t c) {
    PREFIX(four)(table, f, size, c, QKDD_MATRIX);
}
static TARGET void PREFIX(four_dual)(const uint64_t *table, uint64_t *f, size_t size, size_t c) {
    PREFIX(four)(table, f, size, c, QKDD_DUAL);
}
static TARGET void PREFIX(four_transpose)(const uint64_t *table, uint64_t *f, size_t size, size_t c) {
    PREFIX(four)(table, f, size, c, QKDD_TRANSPOSE);
}

/* t = transpose of the transform of (transform of x) times (dual transform of t), on block c of `size` elements. Depth first, so
 * that all three transforms of a block that fits a cache are done while it is there. */
static TARGET void PREFIX(middle)(const uint64_t *table, uint64_t *x, uint64_t *t, size_t size, size_t c) {
    if (size == LEAF) {
        leaf(table, x, t, c);
        return;
    }
    if (size == 2 * LEAF) {
        PREFIX(two)(table, x, size, c, QKDD_MATRIX);
        PREFIX(two)(table, t, size, c, QKDD_DUAL);
        leaf(table, x, t, 2 * c);
        leaf(table, x + size, t + size, 2 * c + 1);
        PREFIX(two)(table, t, size, c, QKDD_TRANSPOSE);
        return;
    }
    PREFIX(four_matrix)(table, x, size, c);
    PREFIX(four_dual)(table, t, size, c);
    for (size_t i = 0; i < 4; i++)
        PREFIX(middle)(table, x + i * (size / 2), t + i * (size / 2), size / 4, 4 * c + i);
    PREFIX(four_transpose)(table, t, size, c);
}

/* One of the three transforms, of the first `count` values (a whole number of leaves; transpose: of inputs that are zero from
 * there on). */
static TARGET void PREFIX(transform)(const uint64_t *table, uint64_t *f, size_t size, size_t c, size_t count, int how) {
    if (count == 0) return;
    if (size == LEAF) {
        leaf_alone(table, f, c, how);
        return;
    }
    if (how != QKDD_TRANSPOSE) PREFIX(two)(table, f, size, c, how);
    size_t half = size / 2, first = count < half ? count : half;
    PREFIX(transform)(table, f, half, 2 * c, first, how);
    PREFIX(transform)(table, f + size, half, 2 * c + 1, count - first, how);
    if (how == QKDD_TRANSPOSE) PREFIX(two)(table, f, size, c, how);
}

static TARGET void PREFIX(add_to)(uint64_t *to, const uint64_t *from, size_t count) { PREFIX(add_run)(to, from, 2 * count); }

/* t[0 .. count) becomes the dual of the transform that takes `count` coefficients to the values at the first `count` points.
 * With h points in the left half and r in the right: u = g0 + w g1 follows from the values on the left, then those of
 * g1 = v - u on the right; here transposed, so right half first. spare: h elements. */
static TARGET void PREFIX(dual_part)(const uint64_t *table, uint64_t *t, size_t size, size_t c, size_t count, uint64_t *spare);

/* All of it but the transform of the left half. */
static TARGET void PREFIX(dual_right)(const uint64_t *table, uint64_t *t, size_t half, size_t c, size_t right, uint64_t *spare) {
    uint64_t *t1 = t + 2 * half;
    TWIDDLE w = twiddle_of(table, c);
    for (size_t i = 0; i < 2 * right; i += 2 * LANES) store(t1 + i, add(load(t1 + i), times_twiddle(load(t + i), w)));
    PREFIX(dual_part)(table, t1, half, 2 * c + 1, right, spare);
    memcpy(spare, t1, 2 * right * sizeof *spare);
    memset(spare + 2 * right, 0, 2 * (half - right) * sizeof *spare);
    PREFIX(transform)(table, spare, half, 2 * c + 1, right, QKDD_TRANSPOSE);
    PREFIX(add_to)(t, spare, half);
}

static TARGET void PREFIX(dual_part)(const uint64_t *table, uint64_t *t, size_t size, size_t c, size_t count, uint64_t *spare) {
    size_t half = size / 2;
    if (count == size) {
        PREFIX(transform)(table, t, size, c, size, QKDD_DUAL);
    } else if (count <= half) {
        PREFIX(dual_part)(table, t, half, 2 * c, count, spare);
    } else {
        PREFIX(dual_right)(table, t, half, c, count - half, spare);
        PREFIX(transform)(table, t, half, 2 * c, half, QKDD_DUAL);
    }
}

/* `middle` on the first `count` points, size / 2 < count <= size; x is zero from count on. */
static TARGET void PREFIX(middle_part)(const uint64_t *table, uint64_t *x, uint64_t *t, size_t size, size_t count,
                                       uint64_t *spare) {
    if (count == size) {
        PREFIX(middle)(table, x, t, size, 0);
        return;
    }
    size_t half = size / 2, right = count - half;
    uint64_t *x1 = x + size, *t1 = t + size;
    PREFIX(two)(table, x, size, 0, QKDD_MATRIX);
    PREFIX(dual_right)(table, t, half, 0, right, spare);
    PREFIX(middle)(table, x, t, half, 0);
    PREFIX(transform)(table, x1, half, 1, right, QKDD_MATRIX);
    for (size_t i = 0; i < 2 * right; i += 2 * LANES) store(t1 + i, times(load(t1 + i), load(x1 + i)));
    memset(t1 + 2 * right, 0, 2 * (half - right) * sizeof *t1);
    PREFIX(transform)(table, t1, half, 1, right, QKDD_TRANSPOSE);
    PREFIX(two)(table, t, size, 0, QKDD_TRANSPOSE);
}

/* y[i] = sum over j of x[j] t[i + j], 0 <= i < count; x and t are 2^k words each, one behind the other, zero from `count` on, and
 * destroyed; 2^k >= count > 2^(k-1), count a multiple of 2^k / 16. spectrum and y: 2^k elements of two words each; of y the
 * first i that meet no t beyond count are right. */
TARGET void PREFIX(middle_product)(uint64_t *x, unsigned k, size_t count, uint64_t *spectrum, uint64_t *y,
                                   const uint64_t *table) {
    size_t size = (size_t)1 << k;
    uint64_t *t = x + size;
    PREFIX(convert)(x, k, 1, QKDD_MATRIX);
    PREFIX(convert)(t, k, 1, QKDD_DUAL);
    for (size_t i = 0; i < size; i++) {
        spectrum[2 * i] = x[i];
        spectrum[2 * i + 1] = 0;
    }
    for (size_t i = 0; i < size; i++) {
        y[2 * i] = t[i];
        y[2 * i + 1] = 0;
    }
    PREFIX(middle_part)(table, spectrum, y, size, count, x);
    PREFIX(convert)(y, k, 2, QKDD_TRANSPOSE);
}
