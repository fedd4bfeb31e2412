/* SPDX-License-Identifier: Apache-2.0
 * Constant time, seen by valgrind's memcheck: secret inputs are marked undefined, so a branch or an address that depends on them is an
 * error that memcheck reports (A. Langley's ctgrind). Each line printed is a kernel on a variant that ran. `control`
 * branches on a secret on purpose: the check must fail for it, else it sees nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <valgrind/memcheck.h>

#include "qkdd_kernels.h"

static void *room(size_t size) {
    void *p = calloc(size + 8, 1);
    if (p == NULL) abort();
    return p;
}

static void secret(void *p, size_t size) { (void)VALGRIND_MAKE_MEM_UNDEFINED(p, size); }

/* Only the lowest bit of each byte is secret: that the others are 0 is public, the kernels refuse anything else. */
static uint8_t *secret_bits(size_t n) {
    uint8_t *bits = room(n), *which = room(n);
    for (size_t i = 0; i < n; i++) bits[i] = (i * 2654435761u >> 7) & 1;
    memset(which, 1, n);
    (void)VALGRIND_SET_VBITS(bits, which, n);
    free(which);
    return bits;
}

static void ran(const char *kernel) { printf("variant %d: %s\n", (int)qkdd_variant_current(), kernel); }

static void hash(void) {
    for (size_t n = 0; n < 700; n = n * 3 + 7) {
        uint8_t *data = room(n), key[16] = {7}, digest[16];
        secret(data, n);
        secret(key, 16);
        qkdd_poly_hash state;
        qkdd_poly_hash_open(&state, key);
        qkdd_poly_hash_update(&state, data, n / 3);
        qkdd_poly_hash_update(&state, data + n / 3, n - n / 3);
        qkdd_poly_hash_digest(&state, digest);
        qkdd_poly_hash_wipe(&state);
        qkdd_poly_hash_of(key, data, n, digest);
        qkdd_gf2_128_multiply(key, digest, digest);
        free(data);
    }
    ran("poly_hash");
}

static void bits(void) {
    for (size_t n = 1; n < 300; n = n * 2 + 3) {
        uint8_t *in = secret_bits(n), *packed = room((n + 7) / 8), *back = room(n);
        if (qkdd_pack_bits(in, n, packed) != QKDD_OK || qkdd_unpack_bits(packed, n, back) != QKDD_OK) abort();
        const size_t rows = n > 9 ? 9 : n;
        if (qkdd_transpose_bytes(in, rows, n / rows, n / rows, back, rows) != QKDD_OK) abort();
        free(in);
        free(packed);
        free(back);
    }
    ran("pack_bits, unpack_bits, transpose_bytes");
}

static void toeplitz(void) {
    static const size_t sizes[][2] = {{100, 40}, {3000, 1000}, {70000, 30000}, {150000, 60000}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s][0], m = sizes[s][1], words = qkdd_toeplitz_workspace(n, m);
        uint8_t *in = secret_bits(n), *seed = secret_bits(n + m - 1), *out = room(m);
        uint64_t *workspace = room(8 * words);
        if (qkdd_toeplitz(in, n, seed, m, out, workspace, words) != QKDD_OK) abort();
        free(in);
        free(seed);
        free(out);
        free(workspace);
    }
    ran("toeplitz");
}

static void control(void) {
    uint8_t *in = secret_bits(8);
    volatile int taken = 0;
    if (in[3]) taken = 1;
    (void)taken;
    free(in);
    ran("control");
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "control") == 0) {
        control();
        return 0;
    }
    /* valgrind knows no AVX-512 */
    for (int variant = QKDD_PORTABLE; variant <= QKDD_AVX2; variant++) {
        if (qkdd_variant_select((qkdd_variant)variant) != QKDD_OK) continue;
        hash();
        bits();
        toeplitz();
    }
    return 0;
}
