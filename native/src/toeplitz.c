/* SPDX-License-Identifier: Apache-2.0
 * Toeplitz matrix times vector over GF(2), on 64-bit words, least significant bit first.
 *
 * Large products go through the additive transform of fft.h, all others through squares; a count of operations decides.
 * With t the seed shifted so that its bit index is i - j + 64 N (N words of input), word I of the result is the middle word
 * N + I of the polynomial product x * t. The matrix is cut into squares of S words; a square is multiplied by
 * the recursion of square.h down to leaves that the variant multiplies directly. Nothing depends on the bits. */
#include "internal.h"

typedef struct {
    size_t n, m;          /* words of input and output, padded to whole squares */
    size_t leaf, side;    /* words; side = leaf * 2^levels */
    unsigned levels;
    unsigned k;           /* not 0: by the transform of 2^k elements, `count` of them used */
    size_t count;
} layout;

static size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* What costs least, by counting word products of the leaves, additions of the splits, butterflies of the transforms. */
static layout plan(size_t n, size_t m) {
    layout best = {0};
    double least = 0;
    size_t nw = ceil_div(n, 64), mw = ceil_div(m, 64);
    const qkdd_kernel_table *kernels = qkdd_kernels();
    for (size_t leaf = kernels->leaf_first; leaf <= kernels->leaf_last; leaf += kernels->leaf_step) {
        size_t side = leaf;
        double cost = (double)(leaf * (leaf + 1));
        for (unsigned levels = 0; levels < 40; levels++) {
            size_t across = ceil_div(nw, side), down = ceil_div(mw, side);
            double total = cost * (double)across * (double)down;
            if (best.side == 0 || total < least) {
                least = total;
                best = (layout){across * side, down * side, leaf, side, levels, 0, 0};
            }
            if (across == 1 && down == 1) break;
            side *= 2;
            cost = 3 * cost + 2.0 * (double)side;
        }
    }
    if (nw + mw > (size_t)1 << (QKDD_FFT_LEAST - 1) && nw + mw <= (size_t)1 << QKDD_FFT_MOST) {
        unsigned k = QKDD_FFT_LEAST;
        while ((size_t)1 << k < nw + mw) k++;
        size_t step = (size_t)1 << (k - 4), count = ceil_div(nw + mw, step) * step;
        if (1.5 * kernels->butterfly * (double)count * k < least) return (layout){nw, mw, 0, 0, 0, k, count};
    }
    return best;
}

/* The recursion takes k + k / 2 words on every level: below 3 * side in all. */
static size_t words_needed(const layout *p) {
    if (p->k) return QKDD_FFT_TABLE + ((size_t)6 << p->k);
    return p->n + (p->n + p->m) + p->m + 3 * p->side;
}

static int in_domain(size_t n, size_t m) { return n <= (size_t)1 << 40 && m <= (size_t)1 << 40; }

size_t qkdd_toeplitz_workspace(size_t n, size_t m) {
    if (n == 0 || m == 0 || !in_domain(n, m)) return 0;
    layout p = plan(n, m);
    return words_needed(&p);
}

/* How the bits come and go. */
typedef struct {
    uint64_t (*load)(const uint8_t *data, size_t count, uint64_t *words);
    void (*store)(const uint64_t *words, size_t count, uint8_t *data);
    uint64_t most; /* a larger result of load is malformed */
    unsigned bits; /* a byte */
} form;

/* t = seed, bit i - j + n - 1 of which goes to bit i - j + 64 * words; t is zero before. */
static uint64_t load_seed(const form *f, const uint8_t *seed, size_t n, size_t m, size_t words, uint64_t *t) {
    size_t up = words * 64 - n + 1, length = ceil_div(n + m - 1 + up % 64, 64);
    t += up / 64;
    uint64_t seen = f->load(seed, n + m - 1, t);
    if (up % 64) {
        for (size_t i = length - 1; i > 0; i--) t[i] = t[i] << up % 64 | t[i - 1] >> (64 - up % 64);
        t[0] <<= up % 64;
    }
    return seen;
}

/* By squares; y = x + p->n + (p->n + p->m). */
static void by_squares(const layout *p, uint64_t *x) {
    uint64_t *t = x + p->n, *y = t + p->n + p->m, *temporary = y + p->m;
    const qkdd_kernel_table *kernels = qkdd_kernels();
    for (size_t i = 0; i < p->m; i += p->side)
        for (size_t j = 0; j < p->n; j += p->side)
            kernels->toeplitz_square(y + i, x + j, t + (p->n - p->side + i - j), p->side, p->levels, temporary);
}

/* Element i of the transposed product by x backwards is the sum of x[j] t[N - 1 + i - j]; returns where the result is. */
static const uint64_t *by_transform(const layout *p, uint64_t *x, uint64_t *table) {
    size_t size = (size_t)1 << p->k;
    for (size_t i = 0, j = p->n - 1; i < j; i++, j--) {
        uint64_t word = x[i];
        x[i] = x[j];
        x[j] = word;
    }
    uint64_t *spectrum = x + 2 * size, *y = spectrum + 2 * size;
    qkdd_fft_twiddles(table);
    qkdd_kernels()->middle_product(x, p->k, p->count, spectrum, y, table);
    for (size_t i = 0; i < p->m; i++) x[i] = y[2 * i + 2] ^ y[2 * i + 1];
    return x;
}

static qkdd_status multiply(const form *f, const uint8_t *bits, size_t n, const uint8_t *seed, size_t m, uint8_t *out,
                            uint64_t *workspace, size_t workspace_size) {
    if (m == 0) return QKDD_OK;
    size_t out_bytes = (m + f->bits - 1) / f->bits;
    if (n == 0) {
        memset(out, 0, out_bytes);
        return QKDD_OK;
    }
    if (!in_domain(n, m)) return QKDD_BAD_ARGUMENT;
    layout p = plan(n, m);
    if (workspace_size < words_needed(&p)) return QKDD_NO_SPACE;
    uint64_t *x = workspace, *t = x + ((size_t)1 << p.k);
    if (p.k) {
        memset(x, 0, ((size_t)16 << p.k)); /* x and t, 2^k words each */
    } else {
        t = x + p.n;
        memset(workspace, 0, (p.n + p.n + p.m + p.m) * sizeof *workspace);
    }
    uint64_t seen = f->load(bits, n, x);
    uint64_t most = load_seed(f, seed, n, m, p.n, t);
    PUBLIC(seen);
    PUBLIC(most);
    seen = seen > most ? seen : most;
    qkdd_status status = seen > f->most ? QKDD_MALFORMED : QKDD_OK;
    if (status != QKDD_OK) {
        memset(out, 0, out_bytes);
    } else if (p.k) {
        f->store(by_transform(&p, x, workspace + ((size_t)6 << p.k)), m, out);
    } else {
        by_squares(&p, x);
        f->store(t + p.n + p.m, m, out);
    }
    wipe(workspace, words_needed(&p) * sizeof *workspace);
    return status;
}

qkdd_status qkdd_toeplitz(const uint8_t *bits, size_t n, const uint8_t *seed, size_t m, uint8_t *out, uint64_t *workspace,
                          size_t workspace_size) {
    static const form one_a_byte = {qkdd_pack_words, qkdd_unpack_words, 1, 1};
    return multiply(&one_a_byte, bits, n, seed, m, out, workspace, workspace_size);
}

qkdd_status qkdd_toeplitz_packed(const uint8_t *bits, size_t n, const uint8_t *seed, size_t m, uint8_t *out,
                                 uint64_t *workspace, size_t workspace_size) {
    static const form packed = {qkdd_words_from_packed, qkdd_packed_from_words, 0, 8};
    return multiply(&packed, bits, n, seed, m, out, workspace, workspace_size);
}
