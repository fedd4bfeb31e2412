/* SPDX-License-Identifier: Apache-2.0
 * Template of the correlation of counts; included once for every variant with
 *   TARGET          the variant's target attribute
 *   PREFIX(name)    name of a function
 *   WIDTH           floats in a vector: 4, 8 or 16
 *
 * Real polynomials modulo x^(2N) + 1 are complex ones modulo x^N - i: coefficient j + N is the imaginary part of coefficient j
 * ("right-angle convolution"; nothing has to be taken apart afterwards). Block c of m coefficients is a residue modulo x^m - z(c);
 * with w(c)^2 = z(c) it splits into 2c modulo x^(m/2) - w(c) and 2c + 1 modulo x^(m/2) + w(c) (D. J. Bernstein, "Multidigit
 * multiplication for mathematicians", 2001; remembered). So a block has one twiddle, w(2^k c + j) = w(2^k c) w(j), and the order of
 * the residues is the same in both factors and never undone. Depth first: forward transform, product and transform back of a block
 * are done while it is in a cache.
 *
 * A vector of 16 coefficients is 16 real parts and 16 imaginary parts, so that a pass at a stride of a power of two uses two
 * neighbouring sets of a cache. All variants round alike: no fused operation, the same order of additions. */

typedef float PREFIX(lanes) __attribute__((vector_size(4 * WIDTH)));
typedef struct {
    PREFIX(lanes) re, im;
} PREFIX(vec);
#define VEC PREFIX(vec)
#define INLINE static inline TARGET __attribute__((always_inline))

INLINE VEC PREFIX(load)(const float *p) {
    VEC v;
    memcpy(&v.re, p, sizeof v.re);
    memcpy(&v.im, p + 16, sizeof v.im);
    return v;
}

INLINE void PREFIX(store)(float *p, VEC v) {
    memcpy(p, &v.re, sizeof v.re);
    memcpy(p + 16, &v.im, sizeof v.im);
}

INLINE VEC PREFIX(times)(VEC a, VEC b) {
    VEC v = {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    return v;
}

/* a times the conjugate of b */
INLINE VEC PREFIX(against)(VEC a, VEC b) {
    VEC v = {a.re * b.re + a.im * b.im, a.im * b.re - a.re * b.im};
    return v;
}

INLINE VEC PREFIX(everywhere)(float re, float im) {
    PREFIX(lanes) zero = {0};
    VEC v = {zero + re, zero + im};
    return v;
}

/* Two levels of splitting: r[0] = w(2c), r[1] = w(c), r[2] their product. */
INLINE void PREFIX(split)(VEC x[4], const VEC r[3]) {
    VEC b = PREFIX(times)(x[1], r[0]), c = PREFIX(times)(x[2], r[1]), d = PREFIX(times)(x[3], r[2]);
    VEC s = {x[0].re + c.re, x[0].im + c.im}, t = {x[0].re - c.re, x[0].im - c.im};
    VEC u = {b.re + d.re, b.im + d.im}, v = {b.re - d.re, b.im - d.im};
    x[0].re = s.re + u.re, x[0].im = s.im + u.im;
    x[1].re = s.re - u.re, x[1].im = s.im - u.im;
    x[2].re = t.re - v.im, x[2].im = t.im + v.re;
    x[3].re = t.re + v.im, x[3].im = t.im - v.re;
}

/* Its inverse, times four. */
INLINE void PREFIX(join)(VEC x[4], const VEC r[3]) {
    VEC s = {x[0].re + x[1].re, x[0].im + x[1].im}, u = {x[0].re - x[1].re, x[0].im - x[1].im};
    VEC t = {x[2].re + x[3].re, x[2].im + x[3].im}, v = {x[2].im - x[3].im, x[3].re - x[2].re};
    VEC c = {s.re - t.re, s.im - t.im}, b = {u.re + v.re, u.im + v.im}, d = {u.re - v.re, u.im - v.im};
    x[0].re = s.re + t.re, x[0].im = s.im + t.im;
    x[1] = PREFIX(against)(b, r[0]);
    x[2] = PREFIX(against)(c, r[1]);
    x[3] = PREFIX(against)(d, r[2]);
}

/* Block c of `size` coefficients, size >= 64, into four or back. */
static TARGET void PREFIX(pass)(const float *table, float *x, size_t size, size_t c, int back) {
    const float *one = table + 2 * c, *two = table + 4 * c; /* w(c), w(2c) */
    const VEC r[3] = {PREFIX(everywhere)(two[0], two[1]), PREFIX(everywhere)(one[0], one[1]),
                      PREFIX(everywhere)(two[0] * one[0] - two[1] * one[1], two[0] * one[1] + two[1] * one[0])};
    const size_t quarter = size / 2; /* floats */
    for (size_t i = 0; i < quarter; i += 32)
        for (size_t k = 0; k < 16; k += WIDTH) {
            float *p = x + i + k;
            VEC v[4];
            for (int j = 0; j < 4; j++) v[j] = PREFIX(load)(p + (size_t)j * quarter);
            if (back)
                PREFIX(join)(v, r);
            else
                PREFIX(split)(v, r);
            for (int j = 0; j < 4; j++) PREFIX(store)(p + (size_t)j * quarter, v[j]);
        }
}

/* The same for two blocks, for an odd number of levels. */
static TARGET void PREFIX(halve)(const float *table, float *x, size_t size, size_t c, int back) {
    const VEC w = PREFIX(everywhere)(table[2 * c], table[2 * c + 1]);
    for (size_t i = 0; i < size; i += 32)
        for (size_t k = 0; k < 16; k += WIDTH) {
            float *p = x + i + k, *q = p + size;
            VEC a = PREFIX(load)(p), b = PREFIX(load)(q);
            if (!back) b = PREFIX(times)(b, w);
            VEC s = {a.re + b.re, a.im + b.im}, d = {a.re - b.re, a.im - b.im};
            if (back) d = PREFIX(against)(d, w);
            PREFIX(store)(p, s);
            PREFIX(store)(q, d);
        }
}

/* Square of WIDTH by WIDTH floats, rows 32 floats apart: rows i and i + WIDTH/2 are interleaved log2(WIDTH) times. */
#if WIDTH == 16
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif WIDTH == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#endif
INLINE void PREFIX(turn_square)(const float *from, float *to) {
    PREFIX(lanes) v[WIDTH], u[WIDTH];
    for (int i = 0; i < WIDTH; i++) memcpy(&v[i], from + 32 * i, sizeof v[i]);
    for (int round = 1; round < WIDTH; round *= 2) {
        for (int i = 0; i < WIDTH / 2; i++) {
            u[2 * i] = __builtin_shufflevector(v[i], v[i + WIDTH / 2], LOW);
            u[2 * i + 1] = __builtin_shufflevector(v[i], v[i + WIDTH / 2], HIGH);
        }
        for (int i = 0; i < WIDTH; i++) v[i] = u[i];
    }
    for (int i = 0; i < WIDTH; i++) memcpy(to + 32 * i, &v[i], sizeof v[i]);
}

/* 16 vectors of 16 coefficients: rows to columns. */
INLINE void PREFIX(turn)(const float *from, float *to) {
    for (size_t i = 0; i < 16; i += WIDTH)
        for (size_t k = 0; k < 16; k += WIDTH)
            for (size_t part = 0; part < 32; part += 16)
                PREFIX(turn_square)(from + 32 * i + k + part, to + 32 * k + i + part);
}

/* The last four levels of 16 blocks of 16 coefficients at once, one a lane. omega: w(8c) of the 16 blocks, real parts first. */
INLINE void PREFIX(leaf)(const float *omega, float *tile, int back) {
    static const float still[4][6] = {/* w(2i), w(i) and their product */
                                      {1, 0, 1, 0, 1, 0},
                                      {0.707106781f, 0.707106781f, 0, 1, -0.707106781f, 0.707106781f},
                                      {0.923879533f, 0.382683432f, 0.707106781f, 0.707106781f, 0.382683432f, 0.923879533f},
                                      {0.382683432f, 0.923879533f, -0.707106781f, 0.707106781f, -0.923879533f, -0.382683432f}};
    for (size_t k = 0; k < 16; k += WIDTH) {
        VEC power[3], outer[3];
        power[0] = PREFIX(load)(omega + k);
        power[1] = PREFIX(times)(power[0], power[0]);
        power[2] = PREFIX(times)(power[1], power[0]);
        outer[0] = PREFIX(times)(power[1], power[1]);
        outer[1] = PREFIX(times)(outer[0], outer[0]);
        outer[2] = PREFIX(times)(outer[1], outer[0]);
        for (int step = 0; step < 2; step++) {
            for (size_t i = 0; i < 4; i++) {
                size_t stride = (step == 0) == !back ? 4 : 1, first = stride == 4 ? i : 4 * i;
                float *p = tile + 32 * first + k;
                VEC r[3], v[4];
                for (int j = 0; j < 3; j++)
                    r[j] = stride == 4 ? outer[j]
                           : i == 0    ? power[j]
                                       : PREFIX(times)(power[j], PREFIX(everywhere)(still[i][2 * j], still[i][2 * j + 1]));
                for (size_t j = 0; j < 4; j++) v[j] = PREFIX(load)(p + 32 * stride * j);
                if (back)
                    PREFIX(join)(v, r);
                else
                    PREFIX(split)(v, r);
                for (size_t j = 0; j < 4; j++) PREFIX(store)(p + 32 * stride * j, v[j]);
            }
        }
    }
}

/* Block c of 256 coefficients: four levels of vectors, then the four of lanes. With `other` (its residues) the correlation, else x's
 * residues. */
static TARGET void PREFIX(last)(const float *table, const float *omega, float *x, const float *other, size_t c) {
    float tile[512] __attribute__((aligned(64)));
    PREFIX(pass)(table, x, 256, c, 0);
    for (size_t i = 0; i < 4; i++) PREFIX(pass)(table, x + 128 * i, 64, 4 * c + i, 0);
    PREFIX(turn)(x, tile);
    PREFIX(leaf)(omega + 32 * c, tile, 0);
    if (other == NULL) {
        memcpy(x, tile, sizeof tile);
        return;
    }
    for (size_t i = 0; i < 512; i += 32)
        for (size_t k = 0; k < 16; k += WIDTH)
            PREFIX(store)(tile + i + k, PREFIX(against)(PREFIX(load)(tile + i + k), PREFIX(load)(other + i + k)));
    PREFIX(leaf)(omega + 32 * c, tile, 1);
    PREFIX(turn)(tile, x);
    for (size_t i = 0; i < 4; i++) PREFIX(pass)(table, x + 128 * i, 64, 4 * c + i, 1);
    PREFIX(pass)(table, x, 256, c, 1);
}

/* x, `size` coefficients of block c, size = 256 * 2^k: its residues (other NULL), or, where `other` has those of a polynomial y, the
 * product of x with y(1/x), times `size`. */
TARGET void PREFIX(correlate)(const float *table, const float *omega, float *x, const float *other, size_t size, size_t c) {
    if (size == 256) {
        PREFIX(last)(table, omega, x, other, c);
        return;
    }
    size_t parts = size == 512 ? 2 : 4, step = 2 * size / parts;
    for (int back = 0; back <= (other != NULL); back++) {
        if (back)
            for (size_t i = 0; i < parts; i++)
                PREFIX(correlate)(table, omega, x + i * step, other + i * step, size / parts, parts * c + i);
        if (parts == 2)
            PREFIX(halve)(table, x, size, c, back);
        else
            PREFIX(pass)(table, x, size, c, back);
    }
    if (other == NULL)
        for (size_t i = 0; i < parts; i++) PREFIX(correlate)(table, omega, x + i * step, NULL, size / parts, parts * c + i);
}
#undef VEC
#undef INLINE
#undef LOW
#undef HIGH
