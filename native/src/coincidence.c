/* SPDX-License-Identifier: Apache-2.0
 * Merging of two sorted tag streams: coincidences and the histogram of delays. */
#include <math.h>

#include "internal.h"

#define TIME_LIMIT ((int64_t)1 << 61)
#define SPAN_LIMIT ((int64_t)1 << 60)
#define FAR INT64_MAX
#define CHUNK 1024

static int sorted_in_range(const int64_t *t, size_t n) {
    if (n == 0) return 1;
    uint64_t back = 0;
    for (size_t i = 1; i < n; i++) back |= t[i] < t[i - 1];
    return !back && t[0] >= -TIME_LIMIT && t[n - 1] <= TIME_LIMIT;
}

/* b's clock mapped into a's. Monotonic, because |drift| < 1 and rint is monotonic. */
static void map_times(const int64_t *b, size_t n, double delay, double drift, int64_t origin, int64_t *mapped) {
    for (size_t i = 0; i < n; i++) {
        double shift = delay + drift * (double)(b[i] - origin);
        mapped[i] = b[i] + (int64_t)rint(shift);
    }
}

qkdd_status qkdd_match_coincidences(const int64_t *a, size_t na, const int64_t *b, size_t nb, int64_t window, double delay,
                                    double drift, int64_t origin, uint32_t *ia, uint32_t *ib, size_t *pairs) {
    *pairs = 0;
    if (na > UINT32_MAX || nb > UINT32_MAX || window < 0 || window > SPAN_LIMIT || !(fabs(drift) <= 1e-2) ||
        !(fabs(delay) <= (double)SPAN_LIMIT) || origin < -TIME_LIMIT || origin > TIME_LIMIT)
        return QKDD_BAD_ARGUMENT;
    if (!sorted_in_range(a, na) || !sorted_in_range(b, nb)) return QKDD_UNSORTED;
    if (na == 0) return QKDD_OK;
    int64_t half = window / 2; /* distances are whole picoseconds: d <= window / 2 is the same as 2 d <= window */
    int64_t mapped[CHUNK + 1];
    size_t i = 0, k = 0;
    for (size_t base = 0; base < nb && i < na; base += CHUNK) {
        size_t length = nb - base < CHUNK ? nb - base : CHUNK;
        size_t ahead = base + length < nb; /* the click after the chunk is needed as neighbour */
        map_times(b + base, length + ahead, delay, drift, origin, mapped);
        if (!ahead) mapped[length] = FAR;
        size_t j = 0;
        /* No branch depends on the times: a step costs the same whether clicks coincide or not. */
        while (j < length && i < na) {
            int64_t x = a[i], y = mapped[j];
            int64_t next_a = i + 1 < na ? a[i + 1] : FAR;
            int64_t next_b = mapped[j + 1];
            int a_first = x <= y;
            int64_t low = a_first ? x : y, high = a_first ? y : x, next = a_first ? next_a : next_b;
            int64_t gap = high - low;
            int nearer = (next > low) & (next < high + gap);
            size_t pair = (size_t)((gap <= half) & !nearer);
            ia[k] = (uint32_t)i;
            ib[k] = (uint32_t)(base + j);
            k += pair;
            i += (size_t)a_first | pair;
            j += (size_t)!a_first | pair;
        }
    }
    *pairs = k;
    return QKDD_OK;
}

qkdd_status qkdd_delay_histogram(const int64_t *a, size_t na, const int64_t *b, size_t nb, int64_t start, int64_t bin,
                                 size_t bins, uint32_t *counts) {
    if (bins > 0) memset(counts, 0, bins * sizeof *counts);
    if (bin < 1 || start < -TIME_LIMIT || start > TIME_LIMIT || bins > (size_t)(TIME_LIMIT / bin)) return QKDD_BAD_ARGUMENT;
    if (!sorted_in_range(a, na) || !sorted_in_range(b, nb)) return QKDD_UNSORTED;
    int64_t span = bin * (int64_t)bins;
    double inverse = 1.0 / (double)bin;
    size_t first = 0;
    for (size_t i = 0; i < na; i++) {
        int64_t low = a[i] + start;
        while (first < nb && b[first] < low) first++;
        for (size_t j = first; j < nb && b[j] - low < span; j++) {
            int64_t d = b[j] - low;
            int64_t k = (int64_t)((double)d * inverse); /* off by at most one below 2^52 bins */
            k -= k * bin > d;
            k += (k + 1) * bin <= d;
            counts[k] += counts[k] != UINT32_MAX;
        }
    }
    return QKDD_OK;
}

qkdd_status qkdd_fold_histogram(const int64_t *times, size_t count, int64_t bin, size_t bins, uint32_t *counts) {
    if (bins > 0) memset(counts, 0, bins * sizeof *counts);
    if (bin < 1 || bins < 1 || bins > (size_t)((2 * TIME_LIMIT) / bin)) return QKDD_BAD_ARGUMENT;
    int64_t period = bin * (int64_t)bins;
    for (size_t i = 0; i < count; i++) {
        int64_t phase = times[i] % period;
        phase += phase < 0 ? period : 0;
        uint32_t *cell = counts + phase / bin;
        *cell += *cell != UINT32_MAX;
    }
    return QKDD_OK;
}
