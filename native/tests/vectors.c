/* SPDX-License-Identifier: Apache-2.0
 * Prints one line "kernel sizes digest" for seeded inputs of many sizes; every variant of this processor must agree, and so must other
 * processors (run_aarch64.sh compares). Digests are CRC-32C by its definition, not by the kernel. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

static uint64_t state;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint32_t digest(const void *data, size_t size) {
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= ((const uint8_t *)data)[i];
        for (int b = 0; b < 8; b++) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static void *room(size_t size) {
    void *p = calloc(size + 1, 1);
    if (p == NULL) abort();
    return p;
}

static void line(FILE *out, const char *name, size_t n, size_t m, const void *data, size_t size) {
    fprintf(out, "%s %zu %zu %08" PRIx32 "\n", name, n, m, digest(data, size));
}

static uint8_t *random_bits(size_t n) {
    uint8_t *bits = room(n);
    for (size_t i = 0; i < n; i++) bits[i] = draw() & 1;
    return bits;
}

static void hashes(FILE *out) {
    for (size_t n = 0; n < 3000; n += 1 + n / 5) {
        uint8_t key[16], got[16], *data = room(n);
        for (size_t i = 0; i < 16; i++) key[i] = (uint8_t)draw();
        for (size_t i = 0; i < n; i++) data[i] = (uint8_t)draw();
        qkdd_poly_hash_of(key, data, n, got);
        line(out, "poly_hash", n, 0, got, 16);
        uint32_t crc = qkdd_crc32c(data, n);
        uint8_t bytes[4] = {(uint8_t)crc, (uint8_t)(crc >> 8), (uint8_t)(crc >> 16), (uint8_t)(crc >> 24)};
        line(out, "crc32c", n, 0, bytes, 4);
        free(data);
    }
}

static void products(FILE *out) {
    static const size_t sizes[][2] = {{1, 1}, {65, 63}, {512, 512}, {1000, 3}, {5000, 2000}, {20000, 8000}, {70001, 30011}, {150000, 90001}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s][0], m = sizes[s][1], words = qkdd_toeplitz_workspace(n, m);
        uint8_t *bits = random_bits(n), *seed = random_bits(n + m - 1), *got = room(m);
        uint64_t *workspace = room(8 * words);
        if (qkdd_toeplitz(bits, n, seed, m, got, workspace, words) != QKDD_OK) abort();
        line(out, "toeplitz", n, m, got, m);
        free(bits);
        free(seed);
        free(got);
        free(workspace);
    }
}

static void times(FILE *out) {
    for (size_t n = 10; n < 100000; n *= 3) {
        int64_t *a = room(8 * n), *b = room(8 * n), at = 0, bt = 0;
        uint32_t *ia = room(4 * n), *ib = room(4 * n), *counts = room(4 * 64);
        float *cells = room(4 * 512);
        size_t pairs;
        for (size_t i = 0; i < n; i++) {
            a[i] = at += (int64_t)(draw() % 700);
            b[i] = bt += (int64_t)(draw() % 700);
        }
        if (qkdd_match_coincidences(a, n, b, n, 150, 7.5, 1e-6, 12345, ia, ib, &pairs) != QKDD_OK) abort();
        line(out, "match", n, pairs, ia, 4 * pairs);
        line(out, "match_b", n, pairs, ib, 4 * pairs);
        if (qkdd_delay_histogram(a, n, b, n, -1000, 31, 64, counts) != QKDD_OK) abort();
        line(out, "delays", n, 64, counts, 4 * 64);
        if (qkdd_clock_histogram(a, n, 17, 1 / 333.3, 1 << 20, 512, cells) != QKDD_OK) abort();
        for (size_t i = 0; i < 512; i++) counts[i % 64] = (uint32_t)cells[i] + 31 * counts[i % 64];
        line(out, "cells", n, 512, counts, 4 * 64);
        uint32_t workspace[2 * (40 + 8) * 8];
        qkdd_clock_peak_found found;
        if (qkdd_clock_peak(a, n, b, n, 3.0, 1e-6, 0, 25.0, 40, 3, UINT32_MAX, workspace, sizeof workspace / 4, &found) != QKDD_OK)
            abort();
        uint64_t values[4] = {found.count, found.slope, found.place, found.pairs};
        line(out, "peak", n, 40, values, sizeof values);
        for (unsigned order = 9; order < 16 && (size_t)1 << order < n; order += 2) { /* counts: lags are whole numbers */
            const size_t length = (size_t)1 << order, half = length / 2;
            float *table = room(4 * qkdd_correlation_table(order, NULL)), *work = room(20 * length), means[2] = {0, 1}, heights[4096];
            double deviation, *places = room(8 * 4096);
            int32_t *whole = room(4 * length);
            size_t found;
            qkdd_correlation_table(order, table);
            if (qkdd_clock_histogram(a, n, a[0], 2.0 / 700, length, length, work) != QKDD_OK) abort();
            memset(work + length, 0, 4 * length);
            if (qkdd_clock_cells(work, length, 0, half, means, 2, 3e-3, 71.5, work + length) != QKDD_OK) abort();
            if (qkdd_correlation_spectrum(order, table, work, work + 2 * length) != QKDD_OK) abort();
            if (qkdd_correlate(order, table, work + 2 * length, work + length, work + 3 * length, work + 4 * length, &deviation))
                abort();
            for (size_t i = 0; i < length; i++) whole[i] = (int32_t)lrintf(work[4 * length + i]);
            line(out, "lags", n, length, whole, 4 * length);
            for (size_t i = 0; i < length; i++) work[i] = (float)whole[i];
            if (qkdd_highest_lags(work, 3, length, 1, (float)whole[7] + 20.5f, 4096, places, heights, &found) == QKDD_OK)
                line(out, "highest", n, found, places, 8 * found);
            free(table);
            free(work);
            free(places);
            free(whole);
        }
        size_t bound = qkdd_gap_bound(n), size;
        uint8_t *coded = room(bound);
        if (qkdd_gap_encode(a, n, coded, bound, &size) != QKDD_OK) abort();
        line(out, "gaps", n, size, coded, size);
        free(a);
        free(b);
        free(ia);
        free(ib);
        free(counts);
        free(cells);
        free(coded);
    }
}

static void decoders(FILE *out) {
    for (size_t n = 1; n < 5000; n *= 4) {
        uint32_t *words = room(4 * n);
        int64_t *found = room(8 * n), overflow = 0;
        uint8_t *kinds = room(n);
        size_t clicks, others;
        for (size_t i = 0; i < n; i++) words[i] = (uint32_t)draw();
        qkdd_tdc1_state tdc1 = {0};
        if (qkdd_decode_tdc1(words, n, &tdc1, found, kinds, &clicks, &others) != QKDD_OK) abort();
        line(out, "tdc1", n, clicks, found, 8 * clicks);
        for (size_t i = 0; i < n; i++) words[i] &= 0x7FFFFFFFu;
        if (n > 3) words[n / 2] = 0xFE000001u;
        if (qkdd_decode_t2(words, n, QKDD_T2_HYDRAHARP2, 5, &overflow, found, kinds, &clicks, &others) != QKDD_OK) abort();
        line(out, "t2", n, clicks, found, 8 * clicks);
        free(words);
        free(found);
        free(kinds);
    }
}

static void ldpc(FILE *out) {
    enum { COLUMNS = 24, ROWS = 6, DEGREE = 11 };
    for (uint32_t lifting = 64; lifting <= 1024; lifting += lifting < 192 ? 64 : 832) {
        uint32_t starts[ROWS + 1], columns_of[ROWS * DEGREE], shifts[ROWS * DEGREE], used;
        for (uint32_t row = 0; row <= ROWS; row++) starts[row] = row * DEGREE;
        for (uint32_t e = 0; e < ROWS * DEGREE; e++) {
            columns_of[e] = e % DEGREE * 2 + (uint32_t)(draw() & 1);
            shifts[e] = (uint32_t)(draw() % lifting);
        }
        const qkdd_ldpc_code code = {lifting, COLUMNS, ROWS, starts, columns_of, shifts};
        const size_t bits = COLUMNS * (size_t)lifting, checks = ROWS * (size_t)lifting;
        const uint32_t limits[2] = {20000, 0};
        uint8_t tables[2 * 64], *errors = room(bits), *syndrome = room(checks), *found = room(bits);
        int8_t *prior = room(bits);
        size_t words;
        for (size_t i = 0; i < sizeof tables; i++) tables[i] = (uint8_t)(i % 64 < 40 ? i % 64 : 40 - i / 64);
        if (qkdd_ldpc_workspace(&code, &words) != QKDD_OK) abort();
        uint64_t *workspace = room(8 * words);
        for (uint32_t rare = 16; rare <= 1024; rare *= 4) { /* too many errors, too many for a few, few */
            for (size_t i = 0; i < bits; i++) errors[i] = draw() % rare == 0;
            for (size_t i = 0; i < bits; i++) prior[i] = (int8_t)(draw() % 64 ? 5 : 127 - 254 * errors[i]);
            if (qkdd_ldpc_syndrome(&code, errors, syndrome) != QKDD_OK) abort();
            line(out, "syndrome", lifting, rare, syndrome, checks);
            for (uint32_t most = 1; most < 40; most += 1 + most) {
                if (qkdd_ldpc_decode(&code, syndrome, prior, tables, limits, 2, most, workspace, words, found, &used) != QKDD_OK)
                    abort();
                line(out, "ldpc", lifting * 64 + most, used, found, bits);
            }
        }
        free(errors);
        free(syndrome);
        free(found);
        free(prior);
        free(workspace);
    }
}

int main(void) {
    char *first = NULL;
    size_t first_size = 0;
    for (int variant = 0; variant < QKDD_VARIANTS; variant++) {
        if (qkdd_variant_select((qkdd_variant)variant) != QKDD_OK) continue;
        char *text = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&text, &size);
        if (out == NULL) abort();
        state = 42;
        hashes(out);
        products(out);
        times(out);
        decoders(out);
        ldpc(out);
        fclose(out);
        if (first == NULL) {
            first = text;
            first_size = size;
            fputs(text, stdout);
            continue;
        }
        if (size != first_size || memcmp(text, first, size) != 0) {
            fprintf(stderr, "variant %d differs from the portable one\n", variant);
            return 1;
        }
        free(text);
    }
    free(first);
    return 0;
}
