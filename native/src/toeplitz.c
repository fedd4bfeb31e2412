/* SPDX-License-Identifier: Apache-2.0
 * Toeplitz matrix times vector over GF(2), on 64-bit words, least significant bit first.
 *
 * With t the seed shifted so that its bit index is i - j + 64 N (N words of input), word I of the result is the middle word
 * N + I of the polynomial product x * t. The matrix is cut into squares of S words; a square is multiplied by
 * the recursion of square.h down to leaves that the variant multiplies directly. Nothing depends on the bits. */
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
    const qkdd_kernel_table *kernels = qkdd_kernels();
    for (size_t leaf = kernels->leaf_first; leaf <= kernels->leaf_last; leaf += kernels->leaf_step) {
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

/* The recursion takes k + k / 2 words on every level: below 3 * side in all. */
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
                kernels->toeplitz_square(y + i, x + j, t + (p.n - p.side + i - j), p.side, p.levels, temporary);
        qkdd_unpack_words(y, m, out);
    } else {
        memset(out, 0, m);
    }
    wipe(workspace, words_needed(&p) * sizeof *workspace);
    return status;
}
