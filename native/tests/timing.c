/* SPDX-License-Identifier: Apache-2.0
 * Constant time, by statistics, on the fastest variant of this processor, AVX-512 above all, which valgrind cannot run: does the time of a call differ between secrets that are all
 * zero and random ones? Welch's t of interleaved calls, the slow tail cut off (O. Reparaz et al., "dudect", DATE 2017). A leak shows
 * in every round, what else the machine does does not: a kernel fails if |t| is above 10 with the same sign in all rounds.
 * `control` is a comparison that stops at the first difference, and must fail, else the measurement sees nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "qkdd_kernels.h"

#define CALLS 10000
#define ROUNDS 5
#define LIMIT 10.0
#define LARGEST 8192

static uint64_t state = 7;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t now(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
}

static uint8_t input[LARGEST], output[LARGEST];
static uint64_t workspace[1 << 16];

static void hash(void) { qkdd_poly_hash_of(input, input + 16, 1000, output); }
static void multiply(void) { qkdd_gf2_128_multiply(input, input + 16, output); }
static void pack(void) {
    if (qkdd_pack_bits(input, 4001, output) != QKDD_OK) abort();
}
static void unpack(void) {
    if (qkdd_unpack_bits(input, 4000, output) != QKDD_OK) abort();
}
static void toeplitz(void) {
    if (qkdd_toeplitz(input, 2001, input + 2001, 1000, output, workspace, sizeof workspace / 8) != QKDD_OK) abort();
}
static void control(void) {
    volatile const uint8_t *p = input;
    size_t i = 0;
    while (i < 1000 && p[i] == 0) i++;
    output[0] = (uint8_t)i;
}

static const struct {
    const char *name;
    void (*call)(void);
    size_t size;
    int bits; /* the input is made of zeros and ones */
} kernels[] = {
    {"control", control, 1000, 0}, {"poly_hash", hash, 1016, 0}, {"gf2_128_multiply", multiply, 32, 0},
    {"pack_bits", pack, 4001, 1},  {"unpack_bits", unpack, 500, 0}, {"toeplitz", toeplitz, 5001, 1},
};

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Welch's t of the two classes, of what lies below the 90th percentile of all. */
static double welch(const uint64_t *taken, const uint8_t *kind) {
    static uint64_t sorted[CALLS];
    memcpy(sorted, taken, sizeof sorted);
    qsort(sorted, CALLS, sizeof *sorted, ascending);
    uint64_t cut = sorted[CALLS / 10 * 9];
    double n[2] = {0}, mean[2] = {0}, square[2] = {0};
    for (size_t i = 0; i < CALLS; i++) {
        if (taken[i] > cut) continue;
        int k = kind[i];
        n[k] += 1;
        double step = (double)taken[i] - mean[k];
        mean[k] += step / n[k];
        square[k] += step * ((double)taken[i] - mean[k]);
    }
    double variance = square[0] / (n[0] - 1) / n[0] + square[1] / (n[1] - 1) / n[1];
    return variance > 0 ? (mean[0] - mean[1]) / sqrt(variance) : 0;
}

static double round_of(size_t k) {
    static uint64_t taken[CALLS];
    static uint8_t kind[CALLS];
    for (size_t i = 0; i < CALLS; i++) {
        uint64_t random = draw();
        kind[i] = random & 1;
        /* the same work for both classes before the call */
        uint8_t mask = (uint8_t)((0u - kind[i]) & (kernels[k].bits ? 1u : 0xFFu));
        for (size_t j = 0; j < kernels[k].size; j++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            input[j] = (uint8_t)(random >> 56) & mask;
        }
        uint64_t start = now();
        kernels[k].call();
        taken[i] = now() - start;
    }
    return welch(taken, kind);
}

int main(void) {
    int failed = 0;
    if (qkdd_variant_select(qkdd_variant_best()) != QKDD_OK) abort();
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        double least = INFINITY, first = 0;
        int same = 1;
        round_of(k); /* warm */
        for (int r = 0; r < ROUNDS; r++) {
            double t = round_of(k);
            if (r == 0) first = t;
            same &= (t > 0) == (first > 0);
            least = fabs(t) < least ? fabs(t) : least;
        }
        int leaks = same && least > LIMIT;
        failed |= leaks != (k == 0);
        printf("variant %d: %s: least |t| of %d rounds %.1f%s\n", (int)qkdd_variant_current(), kernels[k].name, ROUNDS, least,
               leaks ? ": depends on the secret" : "");
    }
    return failed;
}
