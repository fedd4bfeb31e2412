/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of the kernels over two tag streams, of which a peer sends one: coincidences, histograms, the search of a clock.
 * libFuzzer's entry point; fuzz/replay.c drives it without libFuzzer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    double numbers[3];
    int64_t origin, window;
    if (size < sizeof numbers + 18) return 0; /* 42 bytes of parameters */
    /* any delay, drift and bin (infinite and NaN too), any origin and window; the rest is times, sorted or not */
    memcpy(numbers, data, sizeof numbers);
    memcpy(&origin, data + 24, 8);
    memcpy(&window, data + 32, 8);
    unsigned order = data[40] % 16, bins = data[41];
    data += 42;
    size -= 42;
    size_t n = size / 8, na = n / 2, nb = n - na, least = na < nb ? na : nb, pairs, sifted;
    int64_t *times = malloc(n * 8 + 1);
    if (n > 0) memcpy(times, data, n * 8);
    const int64_t *b = times + na;
    uint32_t *ia = malloc(least * 4 + 1), *ib = malloc(least * 4 + 1), counts[64];
    uint8_t *marks = calloc(n + 1, 1), *a_bits = malloc((least + 63) / 64 * 8 + 1), *b_bits = malloc((least + 63) / 64 * 8 + 1);
    float cells[64];
    for (size_t i = 0; i < n; i++) marks[i] = (uint8_t)times[i];
    if (qkdd_sift_coincidences(times, marks, na, b, marks + na, nb, window, numbers[0], numbers[1], origin, ia, ib, a_bits,
                               b_bits, &sifted, &pairs) == QKDD_OK &&
        (sifted > pairs || pairs > least))
        abort();
    qkdd_delay_histogram(times, na, b, nb, origin, window, 64, counts);
    qkdd_clock_histogram(times, n, origin, numbers[2], (uint64_t)window, 64, cells);
    size_t words = qkdd_clock_peak_workspace(bins, order);
    if (words < 1 << 20) {
        uint32_t *workspace = malloc(words * 4 + 1);
        qkdd_clock_peak_found found;
        if (qkdd_clock_peak(times, na, b, nb, numbers[0], numbers[1], origin, numbers[2], bins, order, 100000, workspace, words,
                            &found) == QKDD_OK &&
            (found.count > found.pairs || found.pairs > 100000 || found.place >= bins))
            abort();
        free(workspace);
    }
    /* counts of a stream against those of the other; table and arrays are as large as the header says and no larger */
    enum { CELLS = 512 };
    float *table = malloc(4 * qkdd_correlation_table(9, NULL)), *arrays = malloc(20 * CELLS), heights[16];
    double deviation, places[16];
    size_t found;
    if (table == NULL || arrays == NULL || qkdd_correlation_table(9, table) == 0) abort();
    float *raw = malloc(8 * CELLS), means[4] = {0, 1, 2, 3};
    if (raw == NULL) abort();
    if (qkdd_clock_histogram(times, na, origin, numbers[2], 2 * CELLS, 2 * CELLS, raw) == QKDD_OK &&
        qkdd_clock_cells(raw, 2 * CELLS, bins, 1 + order, means, order % 5, numbers[1], numbers[0], arrays) == QKDD_OK &&
        qkdd_correlation_spectrum(9, table, arrays, arrays + CELLS) == QKDD_OK &&
        qkdd_correlate(9, table, arrays + CELLS, arrays, arrays + 2 * CELLS, arrays + 3 * CELLS, &deviation) == QKDD_OK)
        qkdd_highest_lags(arrays + 3 * CELLS, bins, CELLS, order % 2 ? 1 : -1, (float)fabs(numbers[0]), 16, places, heights, &found);
    free(table);
    free(arrays);
    free(raw);
    free(times);
    free(ia);
    free(ib);
    free(marks);
    free(a_bits);
    free(b_bits);
    return 0;
}
