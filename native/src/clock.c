/* SPDX-License-Identifier: Apache-2.0
 * The confirming step of the search of a clock: pairs near a candidate, laid out by time and difference, summed along lines.
 * The sums over all slopes share their halves: J. H. Taylor, Astron. Astrophys. Suppl. 15 (1974) 367 (dispersed pulses). */
#include <math.h>

#include "internal.h"

#define TIME_LIMIT ((int64_t)1 << 61)
#define MOST_BINS ((size_t)1 << 20)
#define MOST_ORDER 12u
#define LONGEST ((int64_t)1 << 50) /* of the time and of the differences: quotients in doubles then round to the right cell */
#define CHUNK 256
#define AT_ONCE 4 /* clicks; those that are no pairs are counted where nobody looks */

size_t qkdd_clock_peak_workspace(size_t bins, unsigned order) {
    if (order < 1 || order > MOST_ORDER || bins < 2 || bins > MOST_BINS) return 0;
    return 2 * ((bins + ((size_t)1 << order)) << order);
}

/* Sums along lines of `half` bins rise at most, of neighbouring groups of segments, into those of twice the length. Slope s of a
 * group rises s bins from its first segment to its last; two of them meet with slope s or s + 1 between. Cells past the end of a
 * row count as empty; rows are long enough that none of the first `bins` ones reaches there. */
static void combine(const qkdd_kernel_table *kernels, const uint32_t *from, uint32_t *to, size_t row, size_t half) {
    for (size_t s = 0; s < half; s++) {
        const uint32_t *low = from + s * row, *high = from + (half + s) * row;
        uint32_t *even = to + 2 * s * row, *odd = even + row;
        kernels->add_rows(low, high + s, row - s, even);
        memcpy(even + (row - s), low + (row - s), s * sizeof *low);
        kernels->add_rows(low, high + s + 1, row - s - 1, odd);
        memcpy(odd + (row - s - 1), low + (row - s - 1), (s + 1) * sizeof *low);
    }
}

qkdd_status qkdd_clock_peak(const int64_t *a, size_t na, const int64_t *b, size_t nb, double delay, double drift,
                            int64_t origin, double bin, size_t bins, unsigned order, size_t most, uint32_t *workspace,
                            size_t workspace_size, qkdd_clock_peak_found *found) {
    memset(found, 0, sizeof *found);
    size_t words = qkdd_clock_peak_workspace(bins, order);
    if (words == 0 || !(bin >= 1 && bin <= 1e12) || !(fabs(delay) <= 0x1p60) || !(fabs(drift) <= 1e-2) ||
        origin < -TIME_LIMIT || origin > TIME_LIMIT || most > UINT32_MAX)
        return QKDD_BAD_ARGUMENT;
    const size_t segments = (size_t)1 << order, row = bins + segments;
    if (bin * (double)row > (double)LONGEST) return QKDD_BAD_ARGUMENT;
    if (workspace_size < words) return QKDD_NO_SPACE;
    const qkdd_kernel_table *kernels = qkdd_kernels();
    if (!kernels->sorted(a, na) || !kernels->sorted(b, nb)) return QKDD_UNSORTED;
    if (na == 0 || nb == 0) return QKDD_OK;
    if (a[0] < -TIME_LIMIT || a[na - 1] > TIME_LIMIT || b[0] < -TIME_LIMIT || b[nb - 1] > TIME_LIMIT) return QKDD_UNSORTED;
    if (b[nb - 1] - b[0] > LONGEST) return QKDD_BAD_ARGUMENT;
    const double inverse = 1 / bin, share = (double)segments / ((double)(b[nb - 1] - b[0]) + 1);
    const int64_t low = -(int64_t)rint(bin * (double)bins / 2), width = (int64_t)(bin * (double)row);
    uint32_t *plane = workspace, *other = workspace + segments * row;
    memset(plane, 0, segments * row * sizeof *plane);
    uint32_t spare[16 * AT_ONCE] = {0};
    size_t first = 0, pairs = 0;
    for (size_t base = 0; base < nb; base += CHUNK) {
        int64_t mapped[CHUNK];
        size_t length = nb - base < CHUNK ? nb - base : CHUNK;
        kernels->map_times(b + base, length, delay, drift, origin, mapped);
        /* where the pairs of each begin; without branches, which nothing could predict */
        size_t heads[CHUNK], met = 0;
        while (met < length && first < na) {
            heads[met] = first;
            size_t before = a[first] < mapped[met] + low;
            first += before;
            met += !before;
        }
        for (; met < length; met++) heads[met] = na;
        for (size_t i = 0; i < length; i++) {
            const int64_t start = mapped[i] + low;
            uint32_t *counts = plane + (size_t)((double)(b[base + i] - b[0]) * share) * row;
            size_t j = heads[i];
            int more = 1;
            for (; more && j + AT_ONCE <= na; j += AT_ONCE)
                for (size_t k = 0; k < AT_ONCE; k++) {
                    int64_t x = a[j + k] - start;
                    uint32_t *cell = counts + (size_t)((double)x * inverse);
                    more = x < width;
                    cell = more ? cell : spare + 16 * k;
                    ++*cell;
                    pairs += (size_t)more;
                }
            for (; more && j < na && a[j] - start < width; j++) {
                counts[(size_t)((double)(a[j] - start) * inverse)]++;
                pairs++;
            }
            if (pairs > most) return QKDD_OUT_OF_RANGE; /* before a cell can overflow */
        }
    }
    for (size_t half = 1; half < segments; half *= 2) {
        for (size_t group = 0; group < segments; group += 2 * half)
            combine(kernels, plane + group * row, other + group * row, row, half);
        uint32_t *swap = plane;
        plane = other;
        other = swap;
    }
    found->pairs = pairs;
    for (size_t s = 0; s < segments; s++) {
        const uint32_t *sums = plane + s * row;
        const uint32_t best = kernels->best_twin(sums, bins - 1);
        if (best <= found->count) continue;
        found->count = best;
        found->slope = s;
        for (size_t m = 0; m + 1 < bins; m++)
            if (sums[m] + sums[m + 1] == best) {
                found->place = m;
                break;
            }
    }
    return QKDD_OK;
}
