/* SPDX-License-Identifier: Apache-2.0
 * Known answers and random sizes of every kernel on every variant, for builds under sanitizers. Buffers are allocated to the
 * exact size, so that a read or write past an end is seen. The oracles are the definitions, bit by bit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

static unsigned long failures;

#define EXPECT(condition)                                                                                 \
    do {                                                                                                  \
        if (!(condition)) {                                                                               \
            failures++;                                                                                   \
            fprintf(stderr, "%s:%d: variant %d: %s\n", __FILE__, __LINE__, (int)qkdd_variant_current(), #condition); \
        }                                                                                                 \
    } while (0)

static uint64_t state = 1;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void *room(size_t count, size_t size) {
    void *p = malloc(count * size + (count == 0));
    if (p == NULL) abort();
    return p;
}

static uint8_t *random_bits(size_t n) {
    uint8_t *bits = room(n, 1);
    for (size_t i = 0; i < n; i++) bits[i] = draw() & 1;
    return bits;
}

static uint8_t *random_bytes(size_t n) {
    uint8_t *bytes = room(n, 1);
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)draw();
    return bytes;
}

static int64_t *random_times(size_t n, uint64_t step) {
    int64_t *times = room(n, sizeof *times);
    int64_t at = 0;
    for (size_t i = 0; i < n; i++) times[i] = at += (int64_t)(draw() % step);
    return times;
}

static void from_hex(const char *text, uint8_t *out) {
    for (; text[0] && text[1]; text += 2) {
        char pair[3] = {text[0], text[1], 0};
        *out++ = (uint8_t)strtoul(pair, NULL, 16);
    }
}

static void bits(void) {
    for (size_t n = 0; n < 140; n++) {
        uint8_t *in = random_bits(n), *packed = room((n + 7) / 8, 1), *back = room(n, 1);
        EXPECT(qkdd_pack_bits(in, n, packed) == QKDD_OK);
        for (size_t i = 0; i < n; i++) EXPECT((packed[i / 8] >> (7 - i % 8) & 1) == in[i]);
        EXPECT(qkdd_unpack_bits(packed, n, back) == QKDD_OK);
        EXPECT(memcmp(in, back, n) == 0);
        if (n > 0) {
            in[draw() % n] = 2;
            EXPECT(qkdd_pack_bits(in, n, packed) == QKDD_MALFORMED);
            for (size_t i = 0; i < (n + 7) / 8; i++) EXPECT(packed[i] == 0);
        }
        free(in);
        free(packed);
        free(back);
    }
}

static void turning(void) {
    for (int round = 0; round < 60; round++) {
        const size_t rows = draw() % 150, columns = draw() % 150, wide = columns + draw() % 9, high = rows + draw() % 9;
        uint8_t *in = random_bytes(rows * wide), *out = room(columns * high, 1);
        memset(out, 7, columns * high);
        EXPECT(qkdd_transpose_bytes(in, rows, columns, wide, out, high) == QKDD_OK);
        for (size_t c = 0; c < columns; c++)
            for (size_t r = 0; r < high; r++) EXPECT(out[c * high + r] == (r < rows ? in[r * wide + c] : 7));
        if (columns > 0) EXPECT(qkdd_transpose_bytes(in, rows, columns, columns - 1, out, high) == QKDD_BAD_ARGUMENT);
        if (rows > 0) EXPECT(qkdd_transpose_bytes(in, rows, columns, wide, out, rows - 1) == QKDD_BAD_ARGUMENT);
        free(in);
        free(out);
    }
}

static void crc(void) {
    EXPECT(qkdd_crc32c((const uint8_t *)"123456789", 9) == 0xE3069283u);
    for (size_t n = 0; n < 70; n++) {
        uint8_t *data = random_bytes(n);
        uint32_t expected = 0xFFFFFFFFu;
        for (size_t i = 0; i < n; i++) {
            expected ^= data[i];
            for (int b = 0; b < 8; b++) expected = (expected >> 1) ^ (0x82F63B78u & (0u - (expected & 1u)));
        }
        EXPECT(qkdd_crc32c(data, n) == ~expected);
        free(data);
    }
}

/* NIST SP 800-38D, algorithm 1. */
static void multiply_oracle(const uint8_t *a, const uint8_t *b, uint8_t *product) {
    uint8_t v[16], z[16] = {0};
    memcpy(v, b, 16);
    for (int i = 0; i < 128; i++) {
        if (a[i / 8] >> (7 - i % 8) & 1)
            for (int k = 0; k < 16; k++) z[k] ^= v[k];
        int last = v[15] & 1;
        for (int k = 15; k > 0; k--) v[k] = (uint8_t)(v[k] >> 1 | v[k - 1] << 7);
        v[0] = (uint8_t)(v[0] >> 1) ^ (last ? 0xE1 : 0);
    }
    memcpy(product, z, 16);
}

static void poly(void) {
    /* POLYVAL example of RFC 8452, appendix A, read as a product in GHASH's order */
    uint8_t h[16], x[16], expected[16], got[16];
    from_hex("25629347589242761d31f826ba4b757b", h);
    from_hex("4f4f95668c83dfb6401762bb2d01a262", x);
    multiply_oracle(h, x, expected);
    qkdd_gf2_128_multiply(h, x, got);
    EXPECT(memcmp(got, expected, 16) == 0);
    /* GHASH of one block under H = E(0, 0), from AES-128-GCM with zero key and nonce and 16 zero bytes of associated data:
       block 0 contributes 0, so the hash is [128][0] * H */
    from_hex("66e94bd4ef8a2c3b884cfa59ca342b2e", h);
    uint8_t zero[16] = {0}, length[16] = {0};
    length[7] = 128;
    multiply_oracle(length, h, expected);
    qkdd_poly_hash hash;
    qkdd_poly_hash_open(&hash, h);
    qkdd_poly_hash_update(&hash, zero, 16);
    qkdd_poly_hash_digest(&hash, got);
    EXPECT(memcmp(got, expected, 16) == 0);
    for (size_t n = 0; n < 700; n += 1 + n / 9) {
        uint8_t *data = random_bytes(n), *key = random_bytes(16), sum[16] = {0}, block[16];
        for (size_t i = 0; i < n; i += 16) {
            memset(block, 0, 16);
            memcpy(block, data + i, n - i < 16 ? n - i : 16);
            for (int k = 0; k < 16; k++) sum[k] ^= block[k];
            multiply_oracle(sum, key, sum);
        }
        for (int k = 0; k < 8; k++) sum[k] ^= (uint8_t)((uint64_t)n * 8 >> (56 - 8 * k));
        multiply_oracle(sum, key, sum);
        size_t cut = n ? draw() % n : 0;
        qkdd_poly_hash_open(&hash, key);
        qkdd_poly_hash_update(&hash, data, cut);
        qkdd_poly_hash_update(&hash, data + cut, n - cut);
        qkdd_poly_hash_digest(&hash, got);
        EXPECT(memcmp(got, sum, 16) == 0);
        qkdd_poly_hash_wipe(&hash);
        qkdd_poly_hash_of(key, data, n, got);
        EXPECT(memcmp(got, sum, 16) == 0);
        free(data);
        free(key);
    }
}

static void toeplitz_of(size_t n, size_t m) {
    uint8_t *in = random_bits(n), *seed = random_bits(n + m - 1), *out = room(m, 1);
    size_t words = qkdd_toeplitz_workspace(n, m);
    uint64_t *workspace = room(words, 8);
    EXPECT(qkdd_toeplitz(in, n, seed, m, out, workspace, words) == QKDD_OK);
    for (size_t i = 0; i < m; i++) {
        uint8_t sum = 0;
        for (size_t j = 0; j < n; j++) sum ^= seed[i + n - 1 - j] & in[j];
        EXPECT(out[i] == sum);
    }
    for (size_t i = 0; i < words; i++) EXPECT(workspace[i] == 0);
    EXPECT(qkdd_toeplitz(in, n, seed, m, out, workspace, words - 1) == QKDD_NO_SPACE);
    size_t in_bytes = (n + 7) / 8, seed_bytes = (n + m + 6) / 8, out_bytes = (m + 7) / 8;
    uint8_t *packed_in = room(in_bytes, 1), *packed_seed = room(seed_bytes, 1), *packed = room(out_bytes, 1);
    uint8_t *expected = room(out_bytes, 1);
    EXPECT(qkdd_pack_bits(in, n, packed_in) == QKDD_OK && qkdd_pack_bits(seed, n + m - 1, packed_seed) == QKDD_OK);
    EXPECT(qkdd_toeplitz_packed(packed_in, n, packed_seed, m, packed, workspace, words) == QKDD_OK);
    EXPECT(qkdd_pack_bits(out, m, expected) == QKDD_OK && memcmp(packed, expected, out_bytes) == 0);
    for (size_t i = 0; i < words; i++) EXPECT(workspace[i] == 0);
    free(packed_in);
    free(packed_seed);
    free(packed);
    free(expected);
    in[n - 1] = 7;
    EXPECT(qkdd_toeplitz(in, n, seed, m, out, workspace, words) == QKDD_MALFORMED);
    free(in);
    free(seed);
    free(out);
    free(workspace);
}

/* Large enough for the transforms; few ones, so that the definition is quick. */
static void toeplitz_sparse(size_t n, size_t m) {
    uint8_t *in = room(n, 1), *seed = random_bits(n + m - 1), *out = room(m, 1), *sum = room(m, 1);
    memset(in, 0, n);
    memset(sum, 0, m);
    for (int k = 0; k < 30; k++) {
        size_t j = k == 0 ? 0 : k == 1 ? n - 1 : draw() % n;
        in[j] ^= 1;
        for (size_t i = 0; i < m; i++) sum[i] ^= seed[i + n - 1 - j];
    }
    size_t words = qkdd_toeplitz_workspace(n, m);
    uint64_t *workspace = room(words, 8);
    EXPECT(qkdd_toeplitz(in, n, seed, m, out, workspace, words) == QKDD_OK);
    EXPECT(memcmp(out, sum, m) == 0);
    for (size_t i = 0; i < words; i++) EXPECT(workspace[i] == 0);
    free(in);
    free(seed);
    free(out);
    free(sum);
    free(workspace);
}

static void toeplitz(void) {
    for (size_t n = 150000; n < 300000; n += 23333) toeplitz_sparse(n, 250000 - n / 2);
    static const size_t corners[][2] = {{1, 1}, {1, 70}, {70, 1}, {64, 64}, {512, 512}, {513, 511}, {1025, 1024}, {3000, 2100}};
    for (size_t i = 0; i < sizeof corners / sizeof *corners; i++) toeplitz_of(corners[i][0], corners[i][1]);
    for (int i = 0; i < 20; i++) toeplitz_of(1 + draw() % 2500, 1 + draw() % 1500);
}

static void decoders(void) {
    for (size_t n = 0; n < 60; n++) {
        uint32_t *words = room(n, 4);
        for (size_t i = 0; i < n; i++) words[i] = (uint32_t)draw();
        int64_t *times = room(n, 8);
        uint8_t *patterns = room(n, 1), *marks = room(n, 1);
        qkdd_tdc1_state tdc1 = {0};
        size_t clicks, dummies, records, rows;
        EXPECT(qkdd_decode_tdc1(words, n, &tdc1, times, patterns, &clicks, &dummies) == QKDD_OK);
        EXPECT(clicks + dummies + tdc1.voids == n);
        EXPECT(qkdd_expand_patterns(times, patterns, clicks, NULL, NULL, 0, &rows) == QKDD_OK);
        int64_t *row_times = room(rows, 8);
        uint8_t *channels = room(rows, 1);
        EXPECT(qkdd_expand_patterns(times, patterns, clicks, row_times, channels, rows, &rows) == QKDD_OK);
        for (size_t i = 0; i < rows; i++) EXPECT(channels[i] < 4);
        uint8_t *data = random_bytes(n * 8 + 3);
        EXPECT(qkdd_decode_a1(data, n * 8, (int)(n & 1), times, patterns, marks, &records) == QKDD_OK);
        EXPECT(qkdd_decode_a1(data, n * 8 + 3, 0, times, patterns, marks, &records) == QKDD_TRUNCATED);
        free(words);
        free(times);
        free(patterns);
        free(marks);
        free(row_times);
        free(channels);
        free(data);
    }
}

static void coincidences(void) {
    static const size_t sizes[] = {0, 1, 2, 63, 1023, 1024, 1025, 1026, 2047, 2049, 3000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t na = sizes[s], nb = sizes[draw() % (sizeof sizes / sizeof *sizes)], pairs, most = na < nb ? na : nb;
        int64_t *a = random_times(na, 500), *b = random_times(nb, 500);
        uint32_t *ia = room(most, 4), *ib = room(most, 4);
        EXPECT(qkdd_match_coincidences(a, na, b, nb, 100, 0.0, 0.0, 0, ia, ib, &pairs) == QKDD_OK);
        EXPECT(pairs <= most);
        for (size_t i = 0; i < pairs; i++) {
            int64_t gap = a[ia[i]] - b[ib[i]];
            EXPECT(gap <= 50 && gap >= -50);
            EXPECT(i == 0 || (ia[i] > ia[i - 1] && ib[i] > ib[i - 1]));
        }
        uint8_t *a_marks = random_bytes(na), *b_marks = random_bytes(nb);
        uint8_t *a_bits = room((most + 63) / 64 * 8, 1), *b_bits = room((most + 63) / 64 * 8, 1);
        size_t sifted, all;
        for (size_t i = 0; i < na; i++) a_marks[i] &= 3;
        for (size_t i = 0; i < nb; i++) b_marks[i] &= 3;
        EXPECT(qkdd_sift_coincidences(a, a_marks, na, b, b_marks, nb, 100, 0.0, 0.0, 0, ia, ib, a_bits, b_bits, &sifted,
                                      &all) == QKDD_OK);
        EXPECT(all == pairs && sifted <= pairs);
        for (size_t i = 0; i < sifted; i++) {
            EXPECT(a_marks[ia[i]] >> 1 == b_marks[ib[i]] >> 1);
            EXPECT((a_bits[i / 8] >> (7 - i % 8) & 1) == (a_marks[ia[i]] & 1));
            EXPECT((b_bits[i / 8] >> (7 - i % 8) & 1) == (b_marks[ib[i]] & 1));
        }
        free(a_marks);
        free(b_marks);
        free(a_bits);
        free(b_bits);
        uint32_t *counts = room(77, 4);
        uint64_t total = 0, expected = 0;
        EXPECT(qkdd_delay_histogram(a, na, b, nb, -300, 9, 77, counts) == QKDD_OK);
        for (size_t i = 0; i < 77; i++) total += counts[i];
        for (size_t i = 0; i < na; i++)
            for (size_t j = 0; j < nb; j++) expected += b[j] - a[i] >= -300 && b[j] - a[i] < -300 + 9 * 77;
        EXPECT(total == expected);
        free(a);
        free(b);
        free(ia);
        free(ib);
        free(counts);
    }
}

/* Long enough for several chains. */
static void coincidence_chains(void) {
    for (uint64_t step = 20; step < 3000; step *= 6) {
        size_t na = 33000, nb = 41000, pairs;
        int64_t *a = random_times(na, step), *b = random_times(nb, step);
        uint32_t *ia = room(na, 4), *ib = room(na, 4);
        EXPECT(qkdd_match_coincidences(a, na, b, nb, 100, 0.0, 0.0, 0, ia, ib, &pairs) == QKDD_OK);
        for (size_t i = 1; i < pairs; i++) EXPECT(ia[i] > ia[i - 1] && ib[i] > ib[i - 1]);
        free(a);
        free(b);
        free(ia);
        free(ib);
    }
}

static void gaps(void) {
    for (size_t n = 0; n < 300; n += 1 + n / 7) {
        int64_t *values = random_times(n, (uint64_t)1 << draw() % 50), *back = room(n, 8);
        size_t bound = qkdd_gap_bound(n), size;
        uint8_t *out = room(bound, 1);
        EXPECT(qkdd_gap_encode(values, n, out, bound, &size) == QKDD_OK);
        uint8_t *exact = room(size, 1);
        EXPECT(qkdd_gap_encode(values, n, exact, size, &size) == QKDD_OK);
        EXPECT(memcmp(exact, out, size) == 0);
        EXPECT(qkdd_gap_decode(exact, size, back, n) == QKDD_OK);
        EXPECT(memcmp(values, back, n * 8) == 0);
        if (n > 0) {
            size_t none;
            for (size_t cut = 0; cut < size; cut += 1 + cut / 3) {
                uint8_t *head = room(cut, 1);
                memcpy(head, exact, cut);
                EXPECT(qkdd_gap_decode(head, cut, back, n) != QKDD_OK);
                EXPECT(qkdd_gap_encode(values, n, head, cut, &none) == QKDD_NO_SPACE);
                free(head);
            }
        }
        free(values);
        free(back);
        free(out);
        free(exact);
    }
}

/* Both nodes side by side, in buffers of the exact size. */
/* In one call and in pieces of any size: the same events, in buffers of the least size. */
static void slots(void) {
    const qkdd_slot_settings settings = {0.25, 30000, 64, 1000000000, 0.4, 0.08, 0.2, 0.99e-5, 1.01e-5};
    for (size_t n = 0; n < 3000; n += 1 + n / 3) {
        int64_t *times = random_times(n, 400000), end = n ? times[n - 1] + 1 : 1, last = INT64_MIN;
        uint8_t *detectors = room(n, 1);
        for (size_t i = 0; i < n; i++) detectors[i] = (uint8_t)(draw() & 3);
        size_t pieces = n / 64 + (size_t)(end / 1000000000) + 2, events[2], done;
        int64_t *found[2] = {room(n + 1, 8), room(2 * n + 1, 8)};
        uint8_t *patterns[2] = {room(n + 1, 1), room(2 * n + 1, 1)};
        qkdd_slot_piece *measured = room(pieces, sizeof *measured);
        qkdd_slot_state whole = {.slot = 5, .rate = 1e-5, .last = -((int64_t)1 << 61), .open = -((int64_t)1 << 61)}, parts = whole;
        EXPECT(qkdd_assign_slots(&whole, &settings, times, detectors, n, end, found[0], patterns[0], n + 1, events, measured, pieces,
                                 &done) == QKDD_OK);
        events[1] = 0;
        for (size_t at = 0; at <= n;) {
            size_t count = at == n ? 0 : 1 + draw() % (n - at), got;
            int64_t until = at + count == n ? end : times[at + count - 1];
            EXPECT(qkdd_assign_slots(&parts, &settings, times + at, detectors + at, count, until, found[1] + events[1],
                                     patterns[1] + events[1], count + 1, &got, measured, pieces, &done) == QKDD_OK);
            events[1] += got;
            at += count ? count : 1;
        }
        EXPECT(events[0] == events[1] && memcmp(found[0], found[1], events[0] * 8) == 0);
        EXPECT(memcmp(patterns[0], patterns[1], events[0]) == 0);
        for (size_t i = 0; i < events[0]; i++) {
            EXPECT(found[0][i] > last && patterns[0][i] > 0 && patterns[0][i] < 16);
            last = found[0][i];
        }
        EXPECT(qkdd_assign_slots(&parts, &settings, times, detectors, 0, end, found[1], patterns[1], 0, events, measured, pieces,
                                 &done) == QKDD_NO_SPACE);
        free(times), free(detectors), free(found[0]), free(found[1]), free(patterns[0]), free(patterns[1]), free(measured);
    }
}

static void symbols(void) {
    for (size_t n = 0; n < 3000; n += 1 + n / 5)
        for (unsigned alphabet = 2; alphabet <= QKDD_SYMBOLS; alphabet += 7) {
            uint8_t *values = room(n, 1), *back = room(n, 1);
            for (size_t i = 0; i < n; i++) values[i] = (uint8_t)(draw() % 5 ? 0 : draw() % alphabet);
            size_t bound = qkdd_symbol_bound(n, alphabet), size;
            uint8_t *out = room(bound, 1);
            EXPECT(qkdd_symbol_encode(values, n, alphabet, out, bound, &size) == QKDD_OK);
            uint8_t *exact = room(size, 1);
            memcpy(exact, out, size);
            EXPECT(qkdd_symbol_decode(exact, size, alphabet, back, n) == QKDD_OK && memcmp(values, back, n) == 0);
            for (size_t cut = 0; cut < size; cut += 1 + cut / 3) {
                uint8_t *head = room(cut, 1);
                memcpy(head, exact, cut);
                EXPECT(qkdd_symbol_decode(head, cut, alphabet, back, n) != QKDD_OK);
                free(head);
            }
            free(values), free(back), free(out), free(exact);
        }
}

static void cascade(void) {
    static const size_t sizes[] = {1, 2, 3, 63, 64, 65, 100, 1000, 4095, 4096, 4097, 10007, 40000};
    uint8_t seed[32] = {1, 2, 3};
    for (size_t s = 0; s < 2 * (sizeof sizes / sizeof *sizes); s++) {
        size_t n = sizes[s / 2], frame_bits = s % 2 ? 1000 : 100000, bytes = (n + 7) / 8;
        size_t words = qkdd_cascade_workspace(n, frame_bits, 7, 0.04);
        uint8_t *bits = random_bits(n), *keys[2] = {room(bytes, 1), room(bytes, 1)};
        uint64_t *work[2] = {room(words, 8), room(words, 8)};
        for (int node = 0; node < 2; node++) {
            EXPECT(qkdd_pack_bits(bits, n, keys[node]) == QKDD_OK);
            for (size_t i = 0; i < n; i++) bits[i] ^= draw() % 25 == 0;
            EXPECT(qkdd_cascade_open(work[node], words, keys[node], n, seed, frame_bits, 7, 0.04, node) == QKDD_OK);
        }
        size_t message = qkdd_cascade_message(work[0]), asked[2] = {0, 0}, rounds = 0;
        uint8_t *said[2] = {room(message, 1), room(message, 1)}, *heard[2] = {room(message, 1), room(message, 1)};
        do {
            for (int node = 0; node < 2; node++) memcpy(heard[node], said[1 - node], (asked[0] + 7) / 8);
            size_t size = (asked[0] + 7) / 8;
            for (int node = 0; node < 2; node++)
                EXPECT(qkdd_cascade_step(work[node], heard[node], size, said[node], &asked[node]) == QKDD_OK);
            EXPECT(asked[0] == asked[1]);
            EXPECT((asked[0] + 7) / 8 <= message && rounds++ < 100000);
        } while (asked[0]);
        uint8_t *out = room(bytes, 1);
        for (int node = 0; node < 2; node++) {
            uint64_t errors;
            EXPECT(qkdd_cascade_close(work[node], node ? out : NULL, &errors) == QKDD_OK);
            if (node) EXPECT(memcmp(out, keys[0], bytes) == 0);
            for (size_t i = 0; i < words; i++) EXPECT(work[node][i] == 0);
        }
        /* nonsense from the other node comes to an end */
        EXPECT(qkdd_cascade_open(work[0], words, keys[0], n, seed, frame_bits, 7, 0.04, 1) == QKDD_OK);
        asked[0] = 0;
        for (rounds = 0; rounds < 100000; rounds++) {
            size_t size = (asked[0] + 7) / 8;
            for (size_t i = 0; i < size; i++) heard[0][i] = (uint8_t)draw();
            if (asked[0] % 8) heard[0][size - 1] &= (uint8_t)(0xFF00u >> asked[0] % 8);
            if (qkdd_cascade_step(work[0], heard[0], size, said[0], &asked[0]) != QKDD_OK || asked[0] == 0) break;
        }
        EXPECT(rounds < 100000);
        free(bits);
        free(out);
        for (int node = 0; node < 2; node++) {
            free(keys[node]);
            free(work[node]);
            free(said[node]);
            free(heard[node]);
        }
    }
}

static void subsets(void) {
    static const size_t sizes[] = {1, 7, 8, 63, 64, 65, 129, 1000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t m = sizes[s], bytes = (m + 7) / 8, k = m / 3, missing = k, outside = 0, inside = 0;
        uint8_t *bits = random_bits(m), *packed = room(bytes, 1), *map = room(bytes, 1), *random = room(4000, 1);
        memset(map, 0, bytes);
        while (missing) {
            for (size_t i = 0; i < 4000; i++) random[i] = (uint8_t)draw();
            EXPECT(qkdd_subset_draw(random, 1000, m, map, &missing) == QKDD_OK);
        }
        EXPECT(qkdd_pack_bits(bits, m, packed) == QKDD_OK);
        uint8_t *in = room((k + 7) / 8, 1), *out = room((m - k + 7) / 8, 1);
        EXPECT(qkdd_subset_split(packed, map, m, k, in, out) == QKDD_OK);
        for (size_t i = 0; i < m; i++) {
            int chosen = map[i / 8] >> (7 - i % 8) & 1;
            size_t *at = chosen ? &inside : &outside;
            EXPECT(((chosen ? in : out)[*at / 8] >> (7 - *at % 8) & 1) == bits[i]);
            ++*at;
        }
        EXPECT(inside == k);
        EXPECT(qkdd_subset_split(packed, map, m, k + 1, in, out) == QKDD_MALFORMED);
        size_t most = k + m / 255, size = 0;
        uint8_t *gaps = room(most, 1), *again = room(bytes, 1);
        EXPECT(qkdd_subset_pack(map, m, k, gaps, most, &size) == QKDD_OK);
        memset(again, 0, bytes);
        EXPECT(qkdd_subset_unpack(gaps, size, m, k, again) == QKDD_OK);
        EXPECT(memcmp(map, again, bytes) == 0);
        EXPECT(qkdd_subset_pack(map, m, k + 1, gaps, most, &size) == QKDD_MALFORMED);
        EXPECT(qkdd_subset_unpack(gaps, size, m, k + 1, again) == QKDD_MALFORMED);
        if (k > 0) EXPECT(qkdd_subset_pack(map, m, k, gaps, k - 1, &size) == QKDD_NO_SPACE);
        free(gaps);
        free(again);
        uint64_t counts[256], all = 0;
        EXPECT(qkdd_class_counts(bits, NULL, m, counts) == QKDD_OK);
        for (size_t i = 0; i < 256; i++) all += counts[i];
        EXPECT(all == m && counts[0] + counts[1] == m);
        EXPECT(qkdd_class_counts(bits, bits, m, counts) == QKDD_OK);
        EXPECT(counts[0] == 0);
        free(bits);
        free(packed);
        free(map);
        free(random);
        free(in);
        free(out);
    }
}

int main(void) {
    for (int variant = 0; variant < QKDD_VARIANTS; variant++) {
        if (!qkdd_variant_available((qkdd_variant)variant)) continue;
        EXPECT(qkdd_variant_select((qkdd_variant)variant) == QKDD_OK);
        bits();
        turning();
        crc();
        poly();
        toeplitz();
        decoders();
        coincidences();
        coincidence_chains();
        gaps();
        slots();
        symbols();
        cascade();
        subsets();
        printf("variant %d: done\n", variant);
    }
    return failures != 0;
}
