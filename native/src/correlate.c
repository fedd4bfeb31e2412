/* SPDX-License-Identifier: Apache-2.0
 * Correlation of counts for the search of a clock, modulo x^n + 1, and its highest lags; the transform is in correlate.h. */
#include <math.h>
#include <stdlib.h>

#include "internal.h"

#define LEAST_ORDER 9u
#define MOST_ORDER 24u
#define LOW_BITS 9 /* of an index; twiddles are products of one by its low bits and one by the others */

/* w(c) = exp(2 pi i phi(c)), phi(2c + b) = phi(c) / 2 + b / 4 */
static void twiddle(size_t c, double value[2]) {
    double turns = 0, weight = 0.25;
    for (; c > 0; c >>= 1, weight /= 2)
        if (c & 1) turns += weight;
    value[0] = cos(8 * atan(1) * turns);
    value[1] = sin(8 * atan(1) * turns);
}

static size_t twiddles(unsigned order) { return (size_t)3 << (order - 5); } /* blocks c < 3/16 of N = 2^(order - 1) */

size_t qkdd_correlation_table(unsigned order, float *table) {
    if (order < LEAST_ORDER || order > MOST_ORDER) return 0;
    const size_t count = twiddles(order), low = (size_t)1 << LOW_BITS;
    if (table == NULL) return 4 * count;
    double (*near)[2] = malloc(2 * low * sizeof *near);
    if (near == NULL) return 0;
    for (size_t c = 0; c < low; c++) { /* w(c) and w(8c) */
        twiddle(c, near[2 * c]);
        twiddle(8 * c, near[2 * c + 1]);
    }
    for (size_t high = 0; high < count; high += low)
        for (size_t part = 0; part < 2; part++) {
            double far[2]; /* phi of a sum of different bits is the sum of the phi's, so w is the product */
            twiddle(part ? 8 * high : high, far);
            for (size_t i = 0; i < low && high + i < count; i++) {
                const double *one = near[2 * i + part];
                float re = (float)(one[0] * far[0] - one[1] * far[1]), im = (float)(one[0] * far[1] + one[1] * far[0]);
                size_t c = high + i;
                float *at = part ? table + 2 * count + 32 * (c / 16) + c % 16 : table + 2 * c;
                at[0] = re;
                at[part ? 16 : 1] = im;
            }
        }
    free(near);
    return 4 * count;
}

/* Natural order to halves side by side, see correlate.h. */
static void lay_out(const float *cells, float *x, size_t half) {
    for (size_t i = 0; i < half; i += 16) {
        memcpy(x + 2 * i, cells + i, 16 * sizeof *x);
        memcpy(x + 2 * i + 16, cells + half + i, 16 * sizeof *x);
    }
}

qkdd_status qkdd_correlation_spectrum(unsigned order, const float *table, const float *cells, float *spectrum) {
    if (order < LEAST_ORDER || order > MOST_ORDER) return QKDD_BAD_ARGUMENT;
    const size_t half = (size_t)1 << (order - 1);
    lay_out(cells, spectrum, half);
    qkdd_kernels()->correlate(table, table + 2 * twiddles(order), spectrum, NULL, half, 2);
    return QKDD_OK;
}

qkdd_status qkdd_correlate(unsigned order, const float *table, const float *spectrum, const float *cells, float *workspace,
                           float *lags, double *deviation) {
    *deviation = 0;
    if (order < LEAST_ORDER || order > MOST_ORDER) return QKDD_BAD_ARGUMENT;
    const size_t half = (size_t)1 << (order - 1);
    lay_out(cells, workspace, half);
    qkdd_kernels()->correlate(table, table + 2 * twiddles(order), workspace, spectrum, half, 2);
    const float scale = 1 / (float)half;
    double sum = 0;
    for (size_t i = 0; i < half; i += 16) {
        float squares[16];
        for (size_t k = 0; k < 16; k++) {
            float re = workspace[2 * i + k] * scale, im = workspace[2 * i + 16 + k] * scale;
            lags[i + k] = re;
            lags[half + i + k] = im;
            squares[k] = re * re + im * im;
        }
        for (size_t k = 0; k < 8; k++) squares[k] += squares[k + 8];
        for (size_t k = 0; k < 4; k++) squares[k] += squares[k + 4];
        sum += (double)((squares[0] + squares[2]) + (squares[1] + squares[3]));
    }
    *deviation = sqrt(sum / (2 * (double)half));
    return QKDD_OK;
}

static size_t between(double x, size_t low, size_t high) {
    return x > (double)low ? x < (double)high ? (size_t)x : high : low;
}

qkdd_status qkdd_clock_cells(const float *counts, size_t count, size_t first, size_t length, const float *means, size_t pieces,
                             double stretch, double middle, float *cells) {
    const size_t n = count / 2;
    if (count % 2 || count > (size_t)1 << 40 || first > count || length < 1 || pieces > (count - first) / length ||
        !(fabs(stretch) <= 1e-2) || !(fabs(middle) <= 0x1p50))
        return QKDD_BAD_ARGUMENT;
    memset(cells, 0, n * sizeof *cells);
    for (size_t j = 0; j < n;) { /* the shift is the same for whole runs of cells */
        const double moved = rint(stretch * (2 * (double)j - middle));
        size_t end = n;
        if (stretch != 0) end = between((middle + (moved + (stretch > 0 ? 0.5 : -0.5)) / stretch) / 2 + 1, j + 1, n);
        for (size_t piece = 0, low = first; piece < pieces; piece++, low += length) {
            /* sources 2i - moved in this piece, and their neighbours before the end of the last one */
            double least = ceil(((double)low + moved) / 2), most = ceil(((double)(low + length) + moved) / 2);
            if (piece == pieces - 1) most = floor(((double)(low + length) + moved) / 2);
            size_t from = between(least, j, end), to = between(most, from, end);
            if (from < to)
                qkdd_kernels()->pair_sums(counts + (ptrdiff_t)(2 * (double)from - moved), to - from, 2 * means[piece], cells + from);
        }
        j = end;
    }
    return QKDD_OK;
}

qkdd_status qkdd_highest_lags(const float *lags, size_t first, size_t last, float sign, float limit, size_t capacity,
                              double *places, float *heights, size_t *found) {
    *found = 0;
    if (!(limit > 0) || !(sign == 1 || sign == -1) || first > last) return QKDD_BAD_ARGUMENT;
    const float turn = sign * 0.70710678f;
    float before = 0;
    for (size_t base = first; base < last; base += 256) {
        const size_t end = last - base < 256 ? last : base + 256;
        if (end < last && !qkdd_kernels()->any_above(lags + base, end - base, sign, turn, limit)) {
            before = 0; /* at most the limit, like all that it is compared with */
            continue;
        }
        for (size_t i = base; i < end; i++) {
            float alone = sign * lags[i], twin = i + 1 < last ? turn * (lags[i] + lags[i + 1]) : 0;
            float here = alone > twin ? alone : twin;
            if (here > limit && here >= before) {
                float next = i + 1 < last ? sign * lags[i + 1] : 0, after = i + 2 < last ? turn * (lags[i + 1] + lags[i + 2]) : 0;
                if (here > next && here > after) {
                    if (*found == capacity) return QKDD_NO_SPACE;
                    places[*found] = (double)i + (alone > twin ? 0 : 0.5);
                    heights[(*found)++] = here;
                }
            }
            before = here;
        }
    }
    return QKDD_OK;
}
