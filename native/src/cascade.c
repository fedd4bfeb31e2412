/* SPDX-License-Identifier: Apache-2.0
 * Cascade (Brassard and Salvail, EUROCRYPT '93): the bits of a frame in the order of every pass, packed, so that the parity
 * of a range is a population count.
 *
 * Permutation of a pass. Lay the n bits out in rows of length A (the last row has R = n - A (B - 1) bits, B rows). Turn
 * column x by down[x] (within its own height, B or B - 1), then row y by right[y] (within its own length), and read the
 * columns one after the other. Neighbours in the frame are in different columns, so the first turn throws them into unrelated
 * rows, the second into unrelated columns: two bits of one block meet again in a block of k with probability about k / n.
 * The turns come from a generator seeded with the frame's seed and the pass; they are public, no proof depends on them. */
#include "internal.h"

#define MAX_SIZE ((size_t)1 << 31)
#define MAX_PASSES 64
#define MAGIC 0x716B6464436173ull

/* The head of the workspace. Everything behind it: the frame, then for every pass its bits, then for every pass its turns. */
typedef struct {
    uint64_t magic, size, passes;
    uint64_t row, rows, rest; /* A, B, R */
    uint64_t words;           /* of one packed copy of the frame */
    uint64_t built;           /* bit p: pass p's copy is there */
} head;

#define HEAD_WORDS (sizeof(head) / 8)

static uint64_t shape(size_t n, uint64_t *rows, uint64_t *rest) {
    uint64_t row = 1;
    while (row * row < n) row++;
    if (n >= 4096) row = (row + 63) / 64 * 64; /* whole words */
    *rows = (n + row - 1) / row;
    *rest = n - row * (*rows - 1);
    return row;
}

static size_t packed_words(size_t n) { return (n + 63) / 64; }
static size_t turn_words(const head *h) { return (size_t)(h->row + h->rows + 1) / 2; }
static uint64_t *copy_of(const uint64_t *frame, const head *h, size_t pass) {
    return (uint64_t *)frame + HEAD_WORDS + (1 + pass) * h->words;
}
static uint32_t *turns_of(const uint64_t *frame, const head *h, size_t pass) {
    return (uint32_t *)((uint64_t *)frame + HEAD_WORDS + (1 + h->passes) * h->words + pass * turn_words(h));
}

/* Rows of the frame and of its transposed, in whole squares of 64 by 64. */
static size_t across(const head *h) { return (size_t)(h->row + 63) / 64; }
static size_t down(const head *h) { return (size_t)(h->rows + 63) / 64; }
static size_t square_words(const head *h) { return h->row % 64 ? 0 : 64 * across(h) * down(h); }

size_t qkdd_cascade_workspace(size_t n, size_t passes) {
    if (n < 1 || n >= MAX_SIZE || passes < 1 || passes > MAX_PASSES) return 0;
    head h = {0};
    h.row = shape(n, &h.rows, &h.rest);
    return HEAD_WORDS + (1 + passes) * packed_words(n) + passes * turn_words(&h) + 2 * square_words(&h);
}

/* splitmix64: Steele, Lea, Flood, OOPSLA 2014. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* All 32 bytes of the seed and the pass enter the state. */
static uint64_t stream(const uint8_t *seed, size_t pass) {
    uint64_t state = pass + 1;
    for (size_t i = 0; i < 4; i++) state = next_random(&state) ^ load_le64(seed + 8 * i);
    return state;
}

static void draw_turns(uint32_t *turns, const head *h, const uint8_t *seed, size_t pass) {
    uint64_t state = stream(seed, pass);
    for (uint64_t x = 0; x < h->row; x++) {
        uint64_t height = h->rows - (x >= h->rest);
        turns[x] = (uint32_t)(((next_random(&state) >> 32) * height) >> 32);
    }
    for (uint64_t y = 0; y < h->rows; y++) {
        uint64_t length = y + 1 == h->rows ? h->rest : h->row;
        turns[h->row + y] = (uint32_t)(((next_random(&state) >> 32) * length) >> 32);
    }
}

typedef struct {
    uint32_t row, rows, rest;
    const uint32_t *down, *right;
} permutation;

static permutation permutation_of(const uint64_t *frame, const head *h, size_t pass) {
    const uint32_t *turns = turns_of(frame, h, pass);
    return (permutation){(uint32_t)h->row, (uint32_t)h->rows, (uint32_t)h->rest, turns, turns + h->row};
}

static inline uint32_t forward(const permutation *p, uint32_t position) {
    uint32_t y = position / p->row, x = position % p->row;
    uint32_t height = p->rows - (x >= p->rest);
    y += p->down[x];
    y -= y >= height ? height : 0;
    uint32_t length = y + 1 == p->rows ? p->rest : p->row;
    x += p->right[y];
    x -= x >= length ? length : 0;
    uint32_t full = x < p->rest ? x : p->rest;
    return full * p->rows + (x - full) * (p->rows - 1) + y;
}

static inline uint32_t backward(const permutation *p, uint32_t permuted) {
    uint32_t tall = p->rest * p->rows, x, y;
    if (permuted < tall) {
        x = permuted / p->rows;
        y = permuted % p->rows;
    } else {
        x = p->rest + (permuted - tall) / (p->rows - 1);
        y = (permuted - tall) % (p->rows - 1);
    }
    uint32_t length = y + 1 == p->rows ? p->rest : p->row;
    x += length - p->right[y];
    x -= x >= length ? length : 0;
    uint32_t height = p->rows - (x >= p->rest);
    y += height - p->down[x];
    y -= y >= height ? height : 0;
    return y * p->row + x;
}

static int valid(const uint64_t *frame, size_t pass) {
    const head *h = (const head *)frame;
    return h->magic == MAGIC && pass < h->passes;
}

qkdd_status qkdd_cascade_open(uint64_t *frame, size_t frame_size, const uint8_t *bits, size_t n, const uint8_t *seed,
                              size_t passes) {
    size_t needed = qkdd_cascade_workspace(n, passes);
    if (needed == 0) return QKDD_BAD_ARGUMENT;
    if (frame_size < needed) return QKDD_NO_SPACE;
    memset(frame, 0, needed * sizeof *frame);
    head *h = (head *)frame;
    h->size = n;
    h->passes = passes;
    h->row = shape(n, &h->rows, &h->rest);
    h->words = packed_words(n);
    if (qkdd_pack_words(bits, n, frame + HEAD_WORDS) > 1) {
        wipe(frame, needed * sizeof *frame);
        return QKDD_MALFORMED;
    }
    for (size_t pass = 0; pass < passes; pass++) draw_turns(turns_of(frame, h, pass), h, seed, pass);
    h->magic = MAGIC;
    return QKDD_OK;
}

/* Bit by bit, for frames whose rows are not whole words. */
static void build_small(const permutation *p, const uint64_t *bits, uint64_t *copy) {
    uint32_t size = (p->rows - 1) * p->row + p->rest;
    for (uint32_t permuted = 0; permuted < size; permuted++) {
        uint32_t from = backward(p, permuted);
        copy[permuted / 64] |= ((bits[from / 64] >> (from % 64)) & 1) << (permuted % 64);
    }
}

#define LINE_WORDS 736 /* a row or column of the largest frame: 46 400 bits, and a word more */

static inline uint64_t bits_at(const uint64_t *words, size_t place) {
    uint64_t low = words[place / 64] >> (place % 64);
    return place % 64 ? low | words[place / 64 + 1] << (64 - place % 64) : low;
}

/* Turn the first `length` bits of a line up by `turn` places; what lies behind them must be, and stays, 0. */
static void turn_line(uint64_t *line, size_t length, size_t turn, uint64_t *twice) {
    if (turn == 0) return;
    size_t words = (length + 63) / 64, shift = length % 64;
    /* the line twice in a row */
    memcpy(twice, line, words * sizeof *twice);
    if (shift == 0) {
        memcpy(twice + words, line, words * sizeof *twice);
    } else {
        twice[words - 1] |= line[0] << shift;
        for (size_t i = 1; i < words; i++) twice[words + i - 1] = line[i - 1] >> (64 - shift) | line[i] << shift;
        twice[2 * words - 1] = line[words - 1] >> (64 - shift);
    }
    twice[2 * words] = 0;
    size_t from = length - turn;
    for (size_t i = 0; i < words; i++) line[i] = bits_at(twice, from + 64 * i);
    if (shift) line[words - 1] &= ~(uint64_t)0 >> (64 - shift);
}

/* By whole words: the columns are turned as rows of the transposed matrix. */
static void build_large(const permutation *p, const uint64_t *bits, size_t bit_words, size_t wide, size_t high,
                        uint64_t *copy, uint64_t *rows, uint64_t *columns) {
    uint64_t twice[2 * LINE_WORDS];
    void (*transpose)(const uint64_t *, size_t, uint64_t *, size_t) = qkdd_kernels()->transpose;
    memcpy(rows, bits, bit_words * sizeof *rows);
    memset(rows + bit_words, 0, (64 * wide * high - bit_words) * sizeof *rows);
    transpose(rows, wide, columns, high);
    for (uint32_t x = 0; x < p->row; x++) turn_line(columns + x * high, p->rows - (x >= p->rest), p->down[x], twice);
    transpose(columns, high, rows, wide);
    for (uint32_t y = 0; y < p->rows; y++)
        turn_line(rows + y * wide, y + 1 == p->rows ? p->rest : p->row, p->right[y], twice);
    transpose(rows, wide, columns, high);
    size_t place = 0;
    for (uint32_t x = 0; x < p->row; x++) { /* one column behind the other */
        size_t length = p->rows - (x >= p->rest);
        const uint64_t *line = columns + x * high;
        uint64_t *to = copy + place / 64;
        unsigned shift = place % 64;
        for (size_t i = 0; i < (length + 63) / 64; i++) {
            to[i] |= line[i] << shift;
            if (shift && shift + length > 64 * (i + 1)) to[i + 1] = line[i] >> (64 - shift);
        }
        place += length;
    }
    wipe(twice, sizeof twice);
}

/* A pass's copy is made when it is first asked for: most frames never reach the last passes. */
static void build(uint64_t *frame, size_t pass) {
    head *h = (head *)frame;
    if (h->built >> pass & 1) return;
    permutation p = permutation_of(frame, h, pass);
    uint64_t *copy = copy_of(frame, h, pass);
    if (square_words(h)) {
        uint64_t *rows = (uint64_t *)turns_of(frame, h, h->passes), *columns = rows + square_words(h);
        build_large(&p, frame + HEAD_WORDS, h->words, across(h), down(h), copy, rows, columns);
    } else {
        build_small(&p, frame + HEAD_WORDS, copy);
    }
    h->built |= (uint64_t)1 << pass;
}

static uint8_t parity(const uint64_t *words, uint32_t start, uint32_t stop) {
    if (start == stop) return 0;
    uint32_t first = start / 64, last = (stop - 1) / 64;
    uint64_t head_mask = ~(uint64_t)0 << (start % 64), tail_mask = ~(uint64_t)0 >> (63 - (stop - 1) % 64);
    if (first == last) return (uint8_t)__builtin_parityll(words[first] & head_mask & tail_mask);
    uint64_t sum = (words[first] & head_mask) ^ (words[last] & tail_mask);
    for (uint32_t i = first + 1; i < last; i++) sum ^= words[i];
    return (uint8_t)__builtin_parityll(sum);
}

qkdd_status qkdd_cascade_parities(uint64_t *frame, size_t pass, const uint32_t *starts, const uint32_t *stops, size_t count,
                                  uint8_t *parities) {
    if (!valid(frame, pass)) return QKDD_BAD_ARGUMENT;
    const head *h = (const head *)frame;
    for (size_t i = 0; i < count; i++)
        if (starts[i] > stops[i] || stops[i] > h->size) return QKDD_OUT_OF_RANGE;
    build(frame, pass);
    const uint64_t *copy = copy_of(frame, h, pass);
    for (size_t i = 0; i < count; i++) parities[i] = parity(copy, starts[i], stops[i]);
    return QKDD_OK;
}

static qkdd_status in_frame(const head *h, const uint32_t *positions, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (positions[i] >= h->size) return QKDD_OUT_OF_RANGE;
    return QKDD_OK;
}

qkdd_status qkdd_cascade_flip(uint64_t *frame, const uint32_t *positions, size_t count) {
    if (!valid(frame, 0)) return QKDD_BAD_ARGUMENT;
    const head *h = (const head *)frame;
    qkdd_status status = in_frame(h, positions, count);
    if (status != QKDD_OK) return status;
    uint64_t *bits = frame + HEAD_WORDS;
    for (size_t i = 0; i < count; i++) bits[positions[i] / 64] ^= (uint64_t)1 << (positions[i] % 64);
    for (size_t pass = 0; pass < h->passes; pass++) {
        if (!(h->built >> pass & 1)) continue;
        permutation p = permutation_of(frame, h, pass);
        uint64_t *copy = copy_of(frame, h, pass);
        for (size_t i = 0; i < count; i++) {
            uint32_t at = forward(&p, positions[i]);
            copy[at / 64] ^= (uint64_t)1 << (at % 64);
        }
    }
    return QKDD_OK;
}

qkdd_status qkdd_cascade_to_original(const uint64_t *frame, size_t pass, const uint32_t *permuted, size_t count,
                                     uint32_t *original) {
    if (!valid(frame, pass)) return QKDD_BAD_ARGUMENT;
    const head *h = (const head *)frame;
    qkdd_status status = in_frame(h, permuted, count);
    if (status != QKDD_OK) return status;
    permutation p = permutation_of(frame, h, pass);
    for (size_t i = 0; i < count; i++) original[i] = backward(&p, permuted[i]);
    return QKDD_OK;
}

qkdd_status qkdd_cascade_to_permuted(const uint64_t *frame, size_t pass, const uint32_t *original, size_t count,
                                     uint32_t *permuted) {
    if (!valid(frame, pass)) return QKDD_BAD_ARGUMENT;
    const head *h = (const head *)frame;
    qkdd_status status = in_frame(h, original, count);
    if (status != QKDD_OK) return status;
    permutation p = permutation_of(frame, h, pass);
    for (size_t i = 0; i < count; i++) permuted[i] = forward(&p, original[i]);
    return QKDD_OK;
}

qkdd_status qkdd_cascade_bits(const uint64_t *frame, uint8_t *bits) {
    if (!valid(frame, 0)) return QKDD_BAD_ARGUMENT;
    const head *h = (const head *)frame;
    qkdd_unpack_words(frame + HEAD_WORDS, h->size, bits);
    return QKDD_OK;
}
