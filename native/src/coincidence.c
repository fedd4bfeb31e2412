/* SPDX-License-Identifier: Apache-2.0
 * Merging of two sorted tag streams: coincidences and the histogram of delays. */
#include <math.h>

#include "internal.h"

#define TIME_LIMIT ((int64_t)1 << 61)
#define SPAN_LIMIT ((int64_t)1 << 60)
#define FAR ((int64_t)1 << 62) /* after every time, mapped or not */
#define CHUNK 512
#define CHAINS 4
#define LEAST_FOR_CHAINS 32768
#define CUT_TRIES 4096

static int sorted_in_range(const int64_t *t, size_t n) {
    if (n == 0) return 1;
    return qkdd_kernels()->sorted(t, n) && t[0] >= -TIME_LIMIT && t[n - 1] <= TIME_LIMIT;
}

typedef struct {
    double delay, drift;
    int64_t origin;
} clock_map;

static void map_times(const int64_t *b, size_t n, const clock_map *map, int64_t *mapped) {
    qkdd_kernels()->map_times(b, n, map->delay, map->drift, map->origin, mapped);
}

/* Where a merge stands. The stretch of b in use is mapped into `mapped`, with the click after it, or FAR, behind. */
typedef struct {
    const int64_t *a;
    size_t i, stop_a;
    const int64_t *mapped;
    size_t j, length; /* within the stretch */
    size_t base;      /* of the stretch */
    uint32_t *ia, *ib;
    size_t pairs;
} merge;

/* One step: no branch depends on the times, it costs the same whether clicks coincide or not. */
static inline __attribute__((always_inline)) void advance(merge *s, int64_t half, int64_t next_a) {
    int64_t x = s->a[s->i], y = s->mapped[s->j];
    int64_t next_b = s->mapped[s->j + 1];
    int a_first = x <= y;
    int64_t low = a_first ? x : y, high = a_first ? y : x, next = a_first ? next_a : next_b;
    int64_t gap = high - low, ahead = next - low;
    int nearer = (ahead != 0) & ((uint64_t)ahead < 2 * (uint64_t)gap);
    size_t pair = (size_t)((gap <= half) & !nearer);
    s->ia[s->pairs] = (uint32_t)s->i;
    s->ib[s->pairs] = (uint32_t)(s->base + s->j);
    s->pairs += pair;
    s->i += (size_t)a_first | pair;
    s->j += (size_t)!a_first | pair;
}

typedef struct {
    merge at;
    size_t stop_b;
    int64_t buffer[CHUNK + 1];
} chain;

/* Map the next stretch if the last is used up; 0 at the end of b. */
static int refilled(chain *c, const int64_t *b, const clock_map *map) {
    if (c->at.j < c->at.length) return 1;
    size_t base = c->at.base + c->at.length, left = c->stop_b - base;
    if (left == 0) return 0;
    size_t length = left < CHUNK ? left : CHUNK, ahead = left > length;
    map_times(b + base, length + ahead, map, c->buffer);
    if (!ahead) c->buffer[length] = FAR;
    c->at.base = base;
    c->at.length = length;
    c->at.j = 0;
    return 1;
}

static void finish(chain *c, const int64_t *b, const clock_map *map, int64_t half) {
    merge s = c->at;
    while (s.i < s.stop_a) {
        c->at = s;
        if (!refilled(c, b, map)) return;
        s = c->at;
        while (s.j < s.length && s.i < s.stop_a) advance(&s, half, s.i + 1 < s.stop_a ? s.a[s.i + 1] : FAR);
    }
    c->at = s;
}

/* All chains a step at a time: each is one long dependency, so the processor works on the others while one waits. */
static void interleaved(chain c[CHAINS], const int64_t *b, const clock_map *map, int64_t half) {
    for (;;) {
        size_t steps = SIZE_MAX; /* so many are sure to stay inside */
        for (int n = 0; n < CHAINS; n++) {
            if (c[n].at.i + 1 >= c[n].at.stop_a || !refilled(&c[n], b, map)) return;
            size_t in_a = c[n].at.stop_a - 1 - c[n].at.i, in_b = c[n].at.length - c[n].at.j;
            steps = steps < in_a ? steps : in_a;
            steps = steps < in_b ? steps : in_b;
        }
        merge s0 = c[0].at, s1 = c[1].at, s2 = c[2].at, s3 = c[3].at;
        for (; steps > 0; steps--) {
            advance(&s0, half, s0.a[s0.i + 1]);
            advance(&s1, half, s1.a[s1.i + 1]);
            advance(&s2, half, s2.a[s2.i + 1]);
            advance(&s3, half, s3.a[s3.i + 1]);
        }
        c[0].at = s0;
        c[1].at = s1;
        c[2].at = s2;
        c[3].at = s3;
    }
}

/* A place near *i where no click before can have to do with one after: a silence longer than half the window. */
static int cut(const int64_t *a, size_t na, const int64_t *b, size_t nb, const clock_map *map, int64_t half, size_t *i,
               size_t *j) {
    for (size_t tries = 0; tries < CUT_TRIES && *i < na; tries++, ++*i) {
        size_t low = 0, high = nb;
        int64_t at, time = a[*i];
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            map_times(b + middle, 1, map, &at);
            if (at < time)
                low = middle + 1;
            else
                high = middle;
        }
        int64_t before = a[*i - 1];
        if (low > 0) {
            map_times(b + low - 1, 1, map, &at);
            before = before > at ? before : at;
        }
        if (time - before > half) {
            *j = low;
            return 1;
        }
    }
    return 0;
}

qkdd_status qkdd_match_coincidences(const int64_t *a, size_t na, const int64_t *b, size_t nb, int64_t window, double delay,
                                    double drift, int64_t origin, uint32_t *ia, uint32_t *ib, size_t *pairs) {
    *pairs = 0;
    if (na > UINT32_MAX || nb > UINT32_MAX || window < 0 || window > SPAN_LIMIT || !(fabs(drift) <= 1e-2) ||
        !(fabs(delay) <= (double)SPAN_LIMIT) || origin < -TIME_LIMIT || origin > TIME_LIMIT)
        return QKDD_BAD_ARGUMENT;
    if (!sorted_in_range(a, na) || !sorted_in_range(b, nb)) return QKDD_UNSORTED;
    if (na == 0 || nb == 0) return QKDD_OK;
    const clock_map map = {delay, drift, origin};
    const int64_t half = window / 2; /* distances are whole picoseconds: d <= window / 2 is the same as 2 d <= window */
    chain c[CHAINS];
    size_t start_a[CHAINS + 1] = {0}, start_b[CHAINS + 1] = {0};
    int chains = na >= LEAST_FOR_CHAINS ? CHAINS : 1;
    for (int n = 1; n < chains; n++) {
        start_a[n] = na / CHAINS * (size_t)n;
        if (!cut(a, na, b, nb, &map, half, &start_a[n], &start_b[n])) chains = 1;
    }
    start_a[chains] = na;
    start_b[chains] = nb;
    for (int n = 0; n < chains; n++) {
        /* pairs of the chains before lie below this place, so the first write of a chain waits for nobody */
        size_t room = start_a[n] < start_b[n] ? start_a[n] : start_b[n];
        c[n].at = (merge){a, start_a[n], start_a[n + 1], c[n].buffer, 0, 0, start_b[n], ia + room, ib + room, 0};
        c[n].stop_b = start_b[n + 1];
    }
    if (chains == CHAINS) interleaved(c, b, &map, half);
    for (int n = 0; n < chains; n++) {
        finish(&c[n], b, &map, half);
        memmove(ia + *pairs, c[n].at.ia, c[n].at.pairs * sizeof *ia);
        memmove(ib + *pairs, c[n].at.ib, c[n].at.pairs * sizeof *ib);
        *pairs += c[n].at.pairs;
    }
    return QKDD_OK;
}

qkdd_status qkdd_sift_coincidences(const int64_t *a, const uint8_t *a_marks, size_t na, const int64_t *b,
                                   const uint8_t *b_marks, size_t nb, int64_t window, double delay, double drift,
                                   int64_t origin, uint32_t *ia, uint32_t *ib, uint8_t *a_bits, uint8_t *b_bits,
                                   size_t *sifted, size_t *pairs) {
    *sifted = 0;
    qkdd_status status = qkdd_match_coincidences(a, na, b, nb, window, delay, drift, origin, ia, ib, pairs);
    if (status != QKDD_OK) return status;
    size_t kept = 0;
    uint64_t a_word = 0, b_word = 0;
    for (size_t k = 0; k < *pairs; k++) {
        uint32_t i = ia[k], j = ib[k];
        unsigned x = a_marks[i], y = b_marks[j];
        unsigned keep = (x >> 1 == y >> 1) & (x < QKDD_NO_BASIS);
        ia[kept] = i;
        ib[kept] = j;
        kept += keep;
        a_word = a_word << keep | (x & keep);
        b_word = b_word << keep | (y & keep);
        if (keep & (kept % 64 == 0)) {
            store_be64(a_bits + kept / 8 - 8, a_word);
            store_be64(b_bits + kept / 8 - 8, b_word);
        }
    }
    if (kept % 64) {
        uint8_t tail[8];
        size_t bytes = (kept % 64 + 7) / 8;
        store_be64(tail, a_word << (64 - kept % 64));
        memcpy(a_bits + kept / 64 * 8, tail, bytes);
        store_be64(tail, b_word << (64 - kept % 64));
        memcpy(b_bits + kept / 64 * 8, tail, bytes);
        wipe(tail, sizeof tail);
    }
    *sifted = kept;
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

qkdd_status qkdd_clock_histogram(const int64_t *times, size_t count, int64_t origin, double rate, uint64_t cells, size_t fold,
                                 float *counts) {
    if (fold > 0) memset(counts, 0, fold * sizeof *counts);
    if (fold < 1 || fold >= UINT32_MAX || cells > (uint64_t)1 << 51 || !(rate > 0 && rate <= 1) || origin < -TIME_LIMIT ||
        origin > TIME_LIMIT)
        return QKDD_BAD_ARGUMENT;
    if (!sorted_in_range(times, count)) return QKDD_UNSORTED;
    uint32_t at[CHUNK];
    for (size_t base = 0; base < count; base += CHUNK) {
        size_t length = count - base < CHUNK ? count - base : CHUNK;
        qkdd_kernels()->fold_cells(times + base, length, origin, rate, (double)cells, (double)fold, at);
        /* neighbours often share a cell and would wait for each other: eight places far apart at a time */
        size_t part = length / 8;
        for (size_t i = 0; i < part; i++)
            for (size_t k = 0; k < 8; k++)
                if (at[i + k * part] != UINT32_MAX) counts[at[i + k * part]] += 1;
        for (size_t i = 8 * part; i < length; i++)
            if (at[i] != UINT32_MAX) counts[at[i]] += 1;
    }
    return QKDD_OK;
}
