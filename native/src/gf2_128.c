/* SPDX-License-Identifier: Apache-2.0
 * Polynomial hash over GF(2^128): GHASH (NIST SP 800-38D) computed as POLYVAL (RFC 8452, appendix A):
 * GHASH(H, X..) = reverse(POLYVAL(reverse(H) * x, reverse(X)..)), where reverse() turns the 16 bytes around. */
#include "internal.h"

static void load_reversed(const uint8_t *bytes, uint64_t element[2]) {
    element[0] = load_be64(bytes + 8);
    element[1] = load_be64(bytes);
}

static void store_reversed(const uint64_t element[2], uint8_t *bytes) {
    store_be64(bytes, element[1]);
    store_be64(bytes + 8, element[0]);
}

/* Multiply by x modulo x^128 + x^127 + x^126 + x^121 + 1. */
static void times_x(uint64_t element[2]) {
    uint64_t carry = 0 - (element[1] >> 63);
    element[1] = ((element[1] << 1) | (element[0] >> 63)) ^ (carry & 0xC200000000000000u);
    element[0] = (element[0] << 1) ^ (carry & 1);
}

void qkdd_gf2_128_multiply(const uint8_t *a, const uint8_t *b, uint8_t *product) {
    uint64_t x[2], y[2], z[2];
    load_reversed(a, x);
    load_reversed(b, y);
    times_x(y);
    qkdd_kernels()->polyval_multiply(x, y, z);
    store_reversed(z, product);
    wipe(x, sizeof x);
    wipe(y, sizeof y);
    wipe(z, sizeof z);
}

/* H^2 .. H^count. H^i comes from the two powers in the middle: chains of log2(i) products wait less than one of i. */
static void extend(qkdd_poly_hash *state, size_t count) {
    for (size_t i = 2; i <= count; i++)
        qkdd_kernels()->polyval_multiply(state->powers[i / 2 - 1], state->powers[i - i / 2 - 1], state->powers[i - 1]);
}

void qkdd_poly_hash_open(qkdd_poly_hash *state, const uint8_t *key) {
    memset(state, 0, sizeof *state);
    load_reversed(key, state->powers[0]);
    times_x(state->powers[0]);
    extend(state, 16);
}

void qkdd_poly_hash_update(qkdd_poly_hash *state, const uint8_t *data, size_t size) {
    state->size += size;
    if (state->buffered > 0) {
        size_t part = 16 - (size_t)state->buffered;
        if (part > size) part = size;
        if (part > 0) memcpy(state->buffer + state->buffered, data, part);
        state->buffered += part;
        data += part;
        size -= part;
        if (state->buffered < 16) return;
        qkdd_kernels()->ghash_blocks(state, state->buffer, 1);
        state->buffered = 0;
    }
    qkdd_kernels()->ghash_blocks(state, data, size / 16);
    state->buffered = size % 16;
    if (state->buffered > 0) memcpy(state->buffer, data + (size - state->buffered), (size_t)state->buffered);
}

void qkdd_poly_hash_digest(const qkdd_poly_hash *state, uint8_t *digest) {
    qkdd_poly_hash last = *state;
    uint8_t block[16] = {0};
    if (last.buffered > 0) {
        memcpy(block, last.buffer, (size_t)last.buffered);
        qkdd_kernels()->ghash_blocks(&last, block, 1);
        memset(block, 0, 16);
    }
    store_be64(block, last.size * 8); /* [len(A)] [len(C) = 0], in bits */
    qkdd_kernels()->ghash_blocks(&last, block, 1);
    store_reversed(last.sum, digest);
    wipe(&last, sizeof last);
}

void qkdd_poly_hash_of(const uint8_t *key, const uint8_t *data, size_t size, uint8_t *digest) {
    qkdd_poly_hash state;
    memset(&state, 0, sizeof state);
    load_reversed(key, state.powers[0]);
    times_x(state.powers[0]);
    extend(&state, size >= 256 ? 16 : size >= 128 ? 8 : 1); /* what the block functions use */
    qkdd_poly_hash_update(&state, data, size);
    qkdd_poly_hash_digest(&state, digest);
    wipe(&state, sizeof state);
}

void qkdd_poly_hash_wipe(qkdd_poly_hash *state) { wipe(state, sizeof *state); }
