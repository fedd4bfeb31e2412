/* SPDX-License-Identifier: Apache-2.0
 * Toeplitz matrix times vector over GF(2), on 64-bit words, least significant bit first.
 *
 * With t the seed shifted so that its bit index is i - j + 64 N (N words of input), word I of the result is the middle word
 * N + I of the polynomial product x * t. The matrix is cut into squares of S words; a square is multiplied by the two-way
 * split of Fan and Hasan (IEEE Trans. Comput. 56 (2007) 224), the transposed Karatsuba product, which yields only the middle
 * half of the product that is wanted:
 *     [T1 T0] [V0]   [P0 + P2]     P0 = (T0 + T1) V1, P1 = (T1 + T2) V0, P2 = T1 (V0 + V1).
 *     [T2 T1] [V1] = [P1 + P2]
 * Leaves are multiplied by the variant's schoolbook kernel. Nothing depends on the bits. */
#include "internal.h"

typedef struct {
    size_t n, m;          /* words of input and output, padded to whole squares */
    size_t leaf, side;    /* words; side = leaf * 2^levels */
    unsigned levels;
} layout;

static size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* The square that costs least, by counting word products of the leaves and the additions of the splits. */
static layout plan(size_t n, size_t m) {
    layout best = {0, 0, 0, 0, 0};
    double least = 0;
    size_t nw = ceil_div(n, 64), mw = ceil_div(m, 64);
    for (size_t leaf = 8; leaf < 16; leaf += 2) {
        size_t side = leaf;
        double cost = (double)(leaf * (leaf + 1));
        for (unsigned levels = 0; levels < 40; levels++) {
            size_t across = ceil_div(nw, side), down = ceil_div(mw, side);
            double total = cost * (double)across * (double)down;
            if (best.side == 0 || total < least) {
                least = total;
                best = (layout){across * side, down * side, leaf, side, levels};
            }
            if (across == 1 && down == 1) break;
            side *= 2;
            cost = 3 * cost + 2.0 * (double)side;
        }
    }
    return best;
}

static void add(uint64_t *restrict out, const uint64_t *a, const uint64_t *b, size_t words) {
    for (size_t i = 0; i < words; i++) out[i] = a[i] ^ b[i];
}

/* out[k] ^= the square with diagonal words t[2k], times x[k]. temporary: 3k words and those of the deeper levels. */
static void square(uint64_t *out, const uint64_t *x, const uint64_t *t, size_t k, unsigned levels, uint64_t *temporary,
                   const qkdd_kernel_table *kernels) {
    if (levels == 0) {
        kernels->toeplitz_leaf(out, x, t, k);
        return;
    }
    size_t h = k / 2;
    uint64_t *sum = temporary, *part = sum + k, *next = part + h;
    /* In t the word index grows with i - j: T0 (upper right) is t[0 .. k), T1 t[h .. h + k), T2 (lower left) t[k .. 2k). */
    add(sum, t, t + h, k);
    square(out, x + h, sum, h, levels - 1, next, kernels);
    add(sum, t + h, t + k, k);
    square(out + h, x, sum, h, levels - 1, next, kernels);
    add(sum, x, x + h, h);
    memset(part, 0, h * sizeof *part);
    square(part, sum, t + h, h, levels - 1, next, kernels);
    for (size_t i = 0; i < h; i++) {
        out[i] ^= part[i];
        out[h + i] ^= part[i];
    }
}

/* Sum over levels of k + k / 2 words is below 3 * side. */
static size_t words_needed(const layout *p) { return p->n + (p->n + p->m) + p->m + 3 * p->side; }

size_t qkdd_toeplitz_workspace(size_t n, size_t m) {
    if (n == 0 || m == 0 || n > ((size_t)1 << 40) || m > ((size_t)1 << 40)) return 0;
    layout p = plan(n, m);
    return words_needed(&p);
}

qkdd_status qkdd_toeplitz(const uint8_t *bits, size_t n, const uint8_t *seed, size_t m, uint8_t *out, uint64_t *workspace,
                          size_t workspace_size) {
    if (m == 0) return QKDD_OK;
    if (n == 0) {
        memset(out, 0, m);
        return QKDD_OK;
    }
    if (n > ((size_t)1 << 40) || m > ((size_t)1 << 40)) return QKDD_BAD_ARGUMENT;
    layout p = plan(n, m);
    if (workspace_size < words_needed(&p)) return QKDD_NO_SPACE;
    uint64_t *x = workspace, *t = x + p.n, *y = t + p.n + p.m, *temporary = y + p.m;
    memset(workspace, 0, (p.n + p.n + p.m + p.m) * sizeof *workspace);
    uint64_t seen = qkdd_pack_words(bits, n, x, 0);
    /* bit i - j + n - 1 of the seed goes to bit i - j + 64 N */
    seen |= qkdd_pack_words(seed, n + m - 1, t, p.n * 64 - n + 1);
    qkdd_status status = seen > 1 ? QKDD_MALFORMED : QKDD_OK;
    if (status == QKDD_OK) {
        const qkdd_kernel_table *kernels = qkdd_kernels();
        for (size_t i = 0; i < p.m; i += p.side)
            for (size_t j = 0; j < p.n; j += p.side)
                square(y + i, x + j, t + (p.n - p.side + i - j), p.side, p.levels, temporary, kernels);
        qkdd_unpack_words(y, m, out);
    } else {
        memset(out, 0, m);
    }
    wipe(workspace, words_needed(&p) * sizeof *workspace);
    return status;
}
