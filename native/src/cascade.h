/* SPDX-License-Identifier: Apache-2.0
 * What Cascade's machine (cascade.c, which alone includes this) stands on: the workspace, the permutations, parities of segments,
 * messages. */
#include "internal.h"

#define PASSES 3
#define SUBSETS 16
#define LEVELS 3 /* halvings at once, at most */
#define MAGIC 0x716B6464436173ull
#define MAX_SIZE ((size_t)1 << 36)
#define LEAST_FRAME 64
#define MAX_FRAME ((size_t)1 << 22)

/* Block sizes in units of the first, which is (0.8 + 2 e) / e: near Yan et al. (2009), larger at high error rates, where it
 * saves parities (tuned by measurement, docs/performance.md). */
static const double growth[PASSES] = {1, 4, 40};

/* 64 neighbours of one pass: this node's bits, where segments begin, which of these segments are odd. Together, because they are
 * used together. */
typedef struct {
    uint64_t bits, bound, odd;
} cell;

/* A segment [first, last) under bisection, of which [from, to) is odd; window: its bits, once they are 64 or fewer, so that frames
 * by the hundred are not fetched from memory at every halving. Its new bounds are set when the error is found. */
typedef struct {
    uint64_t window;
    uint32_t from, to, first, last;
} range;

typedef struct {
    uint64_t magic, size, words; /* bits of the block; 64-bit words of it */
    uint64_t frames, tiles, width; /* number; 64-word squares and words of a padded frame */
    uint64_t slots, list;        /* frames in flight; entries of a slot's lists */
    uint64_t slot_words, message; /* size of a slot; bytes of the largest message */
    uint64_t correct, opened, finished, errors, asked, levels;
    double error_rate;
} head;

enum { IDLE, OPENING, BISECTING, CONFIRMING, SEARCHING };

typedef struct {
    uint32_t frame, size, stage, pass, passes;
    uint32_t active, found;            /* ranges under bisection; those that were found, at the other end of the list */
    uint32_t confirmed, odd_subsets;   /* whether the subsets were asked for; which are odd */
    uint32_t low, high;                /* the search in the first odd one */
    uint32_t levels;                   /* halvings that are asked for at once */
    uint32_t blocks[PASSES], odd[PASSES];
    uint64_t length[PASSES]; /* of the odd segments together */
} slot;

#define HEAD_WORDS ((sizeof(head) + 7) / 8)
#define SLOT_WORDS ((sizeof(slot) + 7) / 8)
#define CELL_WORDS (sizeof(cell) / 8)
#define RANGE_WORDS (sizeof(range) / 8)

/* ---- layout of the workspace ---- */

static size_t halves(size_t entries) { return (entries + 1) / 2; }

static uint32_t blocks_of(uint32_t size, double error_rate, size_t pass) {
    double count = (double)size * error_rate / ((0.8 + 2 * error_rate) * growth[pass]) + 0.5;
    return count < 1 ? 1 : count > size ? size : (uint32_t)count;
}

static int measure(head *h, size_t n, size_t frame_bits, size_t slots, double error_rate) {
    if (n < 1 || n > MAX_SIZE || frame_bits < LEAST_FRAME || frame_bits > MAX_FRAME || slots < 1) return 0;
    if (!(error_rate > 0 && error_rate <= 0.5)) return 0;
    memset(h, 0, sizeof *h);
    h->size = n;
    h->words = (n + 63) / 64;
    h->frames = (n + frame_bits / 2) / frame_bits;
    if (h->frames == 0) h->frames = 1;
    if (h->frames > h->words) h->frames = h->words;
    size_t longest = (h->words + h->frames - 1) / h->frames;
    h->tiles = (longest + 63) / 64;
    h->width = 64 * h->tiles;
    h->slots = slots < h->frames ? slots : h->frames;
    h->error_rate = error_rate;
    h->list = blocks_of((uint32_t)(64 * longest), error_rate, 0) + 64;
    h->slot_words = SLOT_WORDS + PASSES * (CELL_WORDS * (h->width + 1) + h->tiles) + h->width + RANGE_WORDS * h->list;
    h->message = (h->slots * h->list + 7) / 8 + 8;
    return 1;
}

static size_t table_words(const head *h) { return (PASSES - 1) * 5 * halves(h->width) + h->width + 1; }
static size_t total_words(const head *h) {
    return HEAD_WORDS + table_words(h) + 2 * ((h->message + 7) / 8) + h->frames * h->width + h->slots * h->slot_words;
}

/* from: word that becomes a square's row, turn: by how many places, to: word that a column becomes; row and column are the
 * inverses of from and to. */
typedef struct {
    uint32_t *from, *row, *to, *column, *turn;
} tables;

static tables tables_of(uint64_t *work, const head *h, size_t pass) {
    uint32_t *first = (uint32_t *)(work + HEAD_WORDS + (pass - 1) * 5 * halves(h->width));
    size_t step = 2 * halves(h->width);
    return (tables){first, first + step, first + 2 * step, first + 3 * step, first + 4 * step};
}
static uint64_t *subset_bits(uint64_t *work, const head *h) {
    return work + HEAD_WORDS + (PASSES - 1) * 5 * halves(h->width);
}
static uint8_t *mine_of(uint64_t *work, const head *h) { return (uint8_t *)(work + HEAD_WORDS + table_words(h)); }
static uint8_t *difference_of(uint64_t *work, const head *h) { return mine_of(work, h) + (h->message + 7) / 8 * 8; }
static uint64_t *frames_of(uint64_t *work, const head *h) {
    return work + HEAD_WORDS + table_words(h) + 2 * ((h->message + 7) / 8);
}
static slot *slot_of(uint64_t *work, const head *h, size_t i) {
    return (slot *)(frames_of(work, h) + h->frames * h->width + i * h->slot_words);
}

typedef struct {
    head *h;
    slot *s;
    cell *cells[PASSES];
    uint64_t *odd_words[PASSES]; /* bit w: word w of `odd` may have a bit set */
    uint64_t *done; /* positions that were corrected */
    range *ranges;
    tables permuted[PASSES];
    const uint64_t *subsets;
} frame;

static frame frame_of(uint64_t *work, head *h, size_t i) {
    frame f = {.h = h, .s = slot_of(work, h, i)};
    uint64_t *at = (uint64_t *)f.s + SLOT_WORDS;
    for (size_t p = 0; p < PASSES; p++) {
        f.cells[p] = (cell *)at;
        at += CELL_WORDS * (h->width + 1);
        if (p) f.permuted[p] = tables_of(work, h, p);
    }
    for (size_t p = 0; p < PASSES; p++, at += h->tiles) f.odd_words[p] = at;
    f.done = at;
    f.ranges = (range *)(at + h->width);
    f.subsets = subset_bits(work, h);
    return f;
}

/* ---- public randomness ---- */

/* splitmix64: Steele, Lea, Flood, OOPSLA 2014. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* All 32 bytes of the seed and the purpose enter the state. */
static uint64_t stream(const uint8_t *seed, uint64_t purpose) {
    uint64_t state = purpose;
    for (size_t i = 0; i < 4; i++) state = next_random(&state) ^ load_le64(seed + 8 * i);
    return state;
}

static void shuffle(uint32_t *order, uint32_t *inverse, size_t count, uint64_t *state) {
    for (uint32_t i = 0; i < count; i++) order[i] = i;
    for (uint32_t i = (uint32_t)count - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(((next_random(state) >> 32) * (i + 1)) >> 32), other = order[j];
        order[j] = order[i];
        order[i] = other;
    }
    for (uint32_t i = 0; i < count; i++) inverse[order[i]] = i;
}

static void draw(uint64_t *work, const head *h, const uint8_t *seed) {
    for (size_t p = 1; p < PASSES; p++) {
        tables t = tables_of(work, h, p);
        uint64_t state = stream(seed, p);
        shuffle(t.from, t.row, h->width, &state);
        shuffle(t.to, t.column, h->width, &state);
        for (size_t w = 0; w < h->width; w++) t.turn[w] = (uint32_t)(next_random(&state) >> 58);
    }
    uint64_t state = stream(seed, PASSES), *bits = subset_bits(work, h);
    for (size_t w = 0; w <= h->width; w++) bits[w] = next_random(&state);
}

/* ---- permutations ---- */

static inline uint64_t turned(uint64_t word, uint32_t by) { return word << (by & 63) | word >> (-by & 63); }

static inline uint32_t forward(const tables *t, uint32_t x) {
    uint32_t w = x >> 6, row = t->row[w];
    uint32_t column = (row & ~63u) | ((x + t->turn[w]) & 63);
    return t->to[column] << 6 | (row & 63);
}

static inline uint32_t backward(const tables *t, uint32_t x) {
    uint32_t column = t->column[x >> 6];
    uint32_t w = t->from[(column & ~63u) | (x & 63)];
    return w << 6 | ((column - t->turn[w]) & 63);
}

static void build(const frame *f, size_t pass) {
    void (*transpose)(const uint64_t *, size_t, uint64_t *, size_t) = qkdd_kernels()->transpose;
    const tables *t = &f->permuted[pass];
    const cell *from = f->cells[0];
    cell *to = f->cells[pass];
    uint64_t rows[64], columns[64];
    for (size_t tile = 0; tile < f->h->width; tile += 64) {
        for (size_t j = 0; j < 64; j++) {
            uint32_t w = t->from[tile + j];
            rows[j] = turned(from[w].bits, t->turn[w]);
        }
        transpose(rows, 1, columns, 1);
        for (size_t j = 0; j < 64; j++) to[t->to[tile + j]] = (cell){columns[j], 0, 0};
    }
    wipe(rows, sizeof rows);
    wipe(columns, sizeof columns);
}

/* ---- parities and segments ---- */

static inline uint64_t parity(uint64_t word) { return (uint64_t)__builtin_parityll(word); }

static inline uint64_t range_parity(const cell *cells, uint32_t start, uint32_t stop) {
    uint32_t first = start / 64, last = (stop - 1) / 64;
    uint64_t low = ~(uint64_t)0 << (start % 64), high = ~(uint64_t)0 >> (63 - (stop - 1) % 64);
    if (first == last) return parity(cells[first].bits & low & high);
    uint64_t sum = (cells[first].bits & low) ^ (cells[last].bits & high);
    for (uint32_t w = first + 1; w < last; w++) sum ^= cells[w].bits;
    return parity(sum);
}

static inline uint64_t subset_word(const uint64_t *bits, size_t w, unsigned subset) {
    return subset ? bits[w] >> subset | bits[w + 1] << (64 - subset) : bits[w];
}

static uint64_t subset_parity(const frame *f, unsigned subset, uint32_t start, uint32_t stop) {
    uint64_t sum = 0;
    for (uint32_t w = start / 64; w <= (stop - 1) / 64; w++) {
        uint64_t bits = f->cells[0][w].bits & subset_word(f->subsets, w, subset);
        if (w == start / 64) bits &= ~(uint64_t)0 << (start % 64);
        if (w == (stop - 1) / 64) bits &= ~(uint64_t)0 >> (63 - (stop - 1) % 64);
        sum ^= bits;
    }
    return parity(sum);
}

/* The segment around a position changes its parity. */
static inline void toggle(frame *f, size_t pass, uint32_t at) {
    cell *cells = f->cells[pass];
    uint32_t w = at / 64, v = w;
    uint64_t below = cells[w].bound & (~(uint64_t)0 >> (63 - at % 64));
    uint64_t above = at % 64 == 63 ? 0 : cells[w].bound & (~(uint64_t)0 << (at % 64 + 1));
    while (!below) below = cells[--w].bound;
    while (!above) above = cells[++v].bound;
    uint32_t place = 63 - (uint32_t)__builtin_clzll(below);
    uint32_t length = 64 * v + (uint32_t)__builtin_ctzll(above) - (64 * w + place);
    cells[w].odd ^= (uint64_t)1 << place;
    if (cells[w].odd >> place & 1) {
        f->s->odd[pass]++;
        f->s->length[pass] += length;
        f->odd_words[pass][w / 64] |= (uint64_t)1 << (w % 64);
    } else {
        f->s->odd[pass]--;
        f->s->length[pass] -= length;
    }
}

/* Walks the bounds floor(i * span / count) of a pass. */
typedef struct {
    uint32_t at, step, rest, count, left;
} walk;

static inline walk walk_of(uint32_t span, uint32_t count) {
    return (walk){0, span / count, span % count, count, count};
}
static inline uint32_t next_bound(walk *k) {
    k->at += k->step;
    /* left counts down the remainder: one more whenever the sum of remainders passes count */
    if (k->left <= k->rest) {
        k->at++;
        k->left += k->count;
    }
    k->left -= k->rest;
    return k->at;
}

/* ---- messages: most significant bit first ---- */

typedef struct {
    uint8_t *out;
    uint64_t held, count;
} writer;

static inline void put(writer *w, uint64_t bit) {
    w->held = w->held << 1 | bit;
    if (++w->count % 8 == 0) w->out[w->count / 8 - 1] = (uint8_t)w->held;
}

typedef struct {
    const uint8_t *in;
    uint64_t at;
} reader;

static inline uint64_t get(reader *r) {
    uint64_t bit = (uint64_t)(r->in[r->at / 8] >> (7 - r->at % 8)) & 1;
    r->at++;
    return bit;
}
