/* SPDX-License-Identifier: Apache-2.0
 * Cascade (Brassard and Salvail, EUROCRYPT '93) over many frames at once: one node's side of a block.
 *
 * Both nodes run the same machine on the exclusive-or of their parities, so each knows which ranges are next and no range is
 * ever named. A round is one message each way with the parities that all frames in flight ask for; `qkdd_cascade_step` takes
 * the other node's message of the last round and writes this node's of the next.
 *
 * Cut. Squares of 64 by 64 bits of the block are transposed, what is left stays, and word i goes to frame i mod F: neighbours
 * in the block (a burst) come to lie far apart, and all frames see the same error rate.
 * Pass 0 is a frame in this order. Passes 1 and 2 are permuted copies: every word is turned,
 * the words are shuffled, squares of 64 words transposed, the words shuffled again. Two bits of one word never meet in a
 * word again, two others as rarely as by chance. The tables (one entry a word) come from the block's seed and serve all frames.
 * At the end SUBSETS parities of random subsets, the rows of a Toeplitz matrix: an error pattern that the passes left
 * escapes them with probability 2^-SUBSETS. Rounds that carry little (the last frames: one in a hundred parities takes half of the
 * rounds) ask for several halvings at once. All segments whose parity is known are kept (boundaries and odd ones as bit
 * maps), so that each correction makes others findable. */
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

size_t qkdd_cascade_workspace(size_t n, size_t frame_bits, size_t slots, double error_rate) {
    head h;
    return measure(&h, n, frame_bits, slots, error_rate) ? total_words(&h) : 0;
}

size_t qkdd_cascade_message(const uint64_t *work) {
    const head *h = (const head *)work;
    return h->magic == MAGIC ? h->message : 0;
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

/* ---- the machine ---- */

/* Frame i has words i, i + F, i + 2 F .. of the cut; only the block's last word may be part of one. */
static uint32_t frame_size(const head *h, size_t i) {
    size_t words = (h->words - i + h->frames - 1) / h->frames;
    size_t spare = (h->words - 1) % h->frames == i ? 64 * h->words - h->size : 0;
    return (uint32_t)(64 * words - spare);
}

static uint32_t span_of(const frame *f, size_t pass) { return pass ? (uint32_t)(64 * f->h->width) : f->s->size; }

static void open_pass(frame *f, size_t pass, writer *out) {
    slot *s = f->s;
    cell *cells = f->cells[pass];
    if (pass) {
        cells[f->h->width] = (cell){0, 0, 0};
        build(f, pass);
    }
    memset(f->odd_words[pass], 0, 8 * f->h->tiles);
    s->blocks[pass] = blocks_of(s->size, f->h->error_rate, pass);
    s->odd[pass] = 0;
    s->length[pass] = 0;
    s->passes = (uint32_t)pass + 1;
    s->stage = OPENING;
    s->pass = (uint32_t)pass;
    walk k = walk_of(span_of(f, pass), s->blocks[pass]);
    cells[f->h->width].bound = 1;
    cells[s->size / 64].bound |= (pass == 0) ? (uint64_t)1 << (s->size % 64) : 0;
    uint32_t last = s->blocks[pass] - (pass > 0), from = 0; /* earlier passes are even: the last block follows */
    for (uint32_t i = 0; i < s->blocks[pass]; i++) {
        cells[from / 64].bound |= (uint64_t)1 << (from % 64);
        uint32_t to = next_bound(&k);
        if (i < last) put(out, range_parity(cells, from, to));
        from = to;
    }
}

static void begin(frame *f, uint64_t *work, size_t number, writer *out) {
    head *h = f->h;
    slot *s = f->s;
    const uint64_t *bits = frames_of(work, h) + number * h->width;
    s->frame = (uint32_t)number;
    s->size = frame_size(h, number);
    s->odd_subsets = s->confirmed = 0;
    for (size_t w = 0; w < h->width; w++) f->cells[0][w] = (cell){bits[w], 0, 0};
    f->cells[0][h->width] = (cell){0, 0, 0};
    memset(f->done, 0, 8 * h->width);
    open_pass(f, 0, out);
}

static void opened(frame *f, reader *in) {
    slot *s = f->s;
    walk k = walk_of(span_of(f, s->pass), s->blocks[s->pass]);
    uint64_t sum = 0;
    uint32_t last = s->blocks[s->pass] - (s->pass > 0), from = 0;
    for (uint32_t i = 0; i < s->blocks[s->pass]; i++) {
        uint64_t odd = i < last ? get(in) : sum;
        sum ^= odd;
        uint32_t to = next_bound(&k);
        if (odd) toggle(f, s->pass, from);
        from = to;
    }
}

/* A bisection of [first, last) that ended at `at` knows the parity on both sides of all its middles. */
static inline void mark(cell *cells, uint32_t first, uint32_t last, uint32_t at) {
    while (last - first > 1) {
        uint32_t middle = first + (last - first) / 2;
        cells[middle / 64].bound |= (uint64_t)1 << (middle % 64);
        uint32_t left = (uint32_t)0 - (at < middle); /* by masks: the branch would be missed every second time */
        last = (middle & left) | (last & ~left);
        first = (first & left) | (middle & ~left);
    }
}

/* Correct what was found in `pass` (PASSES: in a subset), positions of that pass's order. */
static qkdd_status correct(frame *f, size_t pass, const range *found, size_t count) {
    slot *s = f->s;
    uint64_t flip = f->h->correct;
    uint32_t places[PASSES][64];
    for (size_t from = 0; from < count; from += 64) {
        size_t some = count - from < 64 ? count - from : 64;
        for (size_t i = 0; i < some; i++) {
            uint32_t at = found[from + i].from, x = pass == 0 || pass == PASSES ? at : backward(&f->permuted[pass], at);
            if (pass < PASSES) mark(f->cells[pass], found[from + i].first, found[from + i].last, at);
            places[0][i] = x;
            __builtin_prefetch(&f->cells[0][x / 64], 1);
            __builtin_prefetch(&f->done[x / 64], 1);
            for (size_t q = 1; q < s->passes; q++) {
                places[q][i] = q == pass ? at : forward(&f->permuted[q], x);
                __builtin_prefetch(&f->cells[q][places[q][i] / 64], 1);
            }
        }
        for (size_t i = 0; i < some; i++) {
            uint32_t x = places[0][i];
            uint64_t bit = (uint64_t)1 << (x % 64);
            if (x >= s->size || (f->done[x / 64] & bit)) return QKDD_MALFORMED;
            f->done[x / 64] |= bit;
            for (size_t q = 0; q < s->passes; q++) {
                f->cells[q][places[q][i] / 64].bits ^= flip << (places[q][i] % 64);
                if (q != pass) toggle(f, q, places[q][i]);
            }
            if (s->confirmed)
                for (unsigned j = 0; j < SUBSETS; j++)
                    s->odd_subsets ^= (uint32_t)(subset_word(f->subsets, x / 64, j) >> (x % 64) & 1) << j;
        }
    }
    f->h->errors += count;
    return QKDD_OK;
}

static inline uint64_t window_at(const cell *cells, uint32_t from) {
    uint64_t low = cells[from / 64].bits >> (from % 64);
    return from % 64 ? low | cells[from / 64 + 1].bits << (64 - from % 64) : low;
}

/* The parity of the first half of a range of two bits or more. */
static inline uint64_t half_parity(const cell *cells, const range *r) {
    uint32_t half = (r->to - r->from) / 2;
    return r->to - r->from <= 64 ? parity(r->window & (((uint64_t)1 << half) - 1)) : range_parity(cells, r->from, r->from + half);
}

/* Take up to `list` odd segments of a pass off the maps, in their order, and ask for their halves (with `out`). */
static void start(frame *f, size_t pass, writer *out) {
    slot *s = f->s;
    cell *cells = f->cells[pass];
    size_t list = f->h->list;
    s->pass = (uint32_t)pass;
    s->active = s->found = 0;
    for (size_t i = 0; i < f->h->tiles; i++) {
        uint64_t which = f->odd_words[pass][i];
        for (; which; which &= which - 1) {
            uint32_t w = (uint32_t)(64 * i) + (uint32_t)__builtin_ctzll(which);
            for (uint64_t odd = cells[w].odd; odd; odd &= odd - 1) {
                if (s->active + s->found == list) {
                    f->odd_words[pass][i] = which;
                    return;
                }
                uint32_t at = 64 * w + (uint32_t)__builtin_ctzll(odd), v = w;
                uint64_t above = at % 64 == 63 ? 0 : cells[w].bound & (~(uint64_t)0 << (at % 64 + 1));
                while (!above) above = cells[++v].bound;
                uint32_t end = 64 * v + (uint32_t)__builtin_ctzll(above);
                cells[w].odd ^= odd & -odd;
                s->odd[pass]--;
                s->length[pass] -= end - at;
                range r = {end - at <= 64 ? window_at(cells, at) : 0, at, end, at, end};
                if (end - at == 1) {
                    f->ranges[list - ++s->found] = r;
                } else {
                    f->ranges[s->active++] = r;
                    if (out) put(out, half_parity(cells, &r));
                }
            }
        }
        f->odd_words[pass][i] = 0;
    }
}

/* Several halvings of [from, to) at once: every middle down to that depth, the left part before the right one. In a subset if
 * `subset` is not negative. */
static void ask_tree(const frame *f, int subset, uint32_t from, uint32_t to, uint32_t levels, writer *out) {
    if (levels == 0 || to - from < 2) return;
    uint32_t middle = from + (to - from) / 2;
    put(out, subset < 0 ? range_parity(f->cells[f->s->pass], from, middle) : subset_parity(f, (unsigned)subset, from, middle));
    ask_tree(f, subset, from, middle, levels - 1, out);
    ask_tree(f, subset, middle, to, levels - 1, out);
}

/* The answers in the same order; `in` reads all of them, *first and *last become the odd part. */
static void follow_tree(uint32_t from, uint32_t to, uint32_t levels, int odd, reader *in, uint32_t *first, uint32_t *last) {
    if (levels == 0 || to - from < 2) {
        if (odd) {
            *first = from;
            *last = to;
        }
        return;
    }
    uint32_t middle = from + (to - from) / 2;
    int left = (int)get(in);
    follow_tree(from, middle, levels - 1, odd && left, in, first, last);
    follow_tree(middle, to, levels - 1, odd && !left, in, first, last);
}

/* Ask for several halvings of all ranges, where rounds carry little. */
static void ask_deeper(frame *f, writer *out) {
    slot *s = f->s;
    s->levels = (s->active << LEVELS) > f->h->list ? 1 : (uint32_t)f->h->levels;
    for (uint32_t i = 0; i < s->active; i++) ask_tree(f, -1, f->ranges[i].from, f->ranges[i].to, s->levels, out);
}

static size_t shortest(const slot *s) {
    size_t best = PASSES;
    for (size_t p = 0; p < s->passes; p++)
        if (s->odd[p] && (best == PASSES || s->length[p] * s->odd[best] < s->length[best] * s->odd[p])) best = p;
    return best;
}

static void confirm(frame *f, writer *out) {
    uint64_t sums[SUBSETS] = {0};
    for (size_t w = 0; w < f->h->width; w++) {
        uint64_t bits = f->cells[0][w].bits, low = f->subsets[w], high = f->subsets[w + 1];
        sums[0] ^= bits & low;
        for (unsigned j = 1; j < SUBSETS; j++) sums[j] ^= bits & (low >> j | high << (64 - j));
    }
    for (unsigned j = 0; j < SUBSETS; j++) put(out, parity(sums[j]));
    f->s->confirmed = 1;
    f->s->stage = CONFIRMING;
}


/* From a settled state on, until the frame asks for something (or is finished: IDLE). */
static qkdd_status go_on(frame *f, writer *out) {
    slot *s = f->s;
    for (;;) {
        size_t p = shortest(s);
        if (p == PASSES) {
            if (s->passes < PASSES) {
                open_pass(f, s->passes, out);
                if (s->blocks[s->pass] > 1 || s->pass == 0) return QKDD_OK;
                continue; /* one block: even, because the passes before are */
            }
            if (!s->confirmed) {
                confirm(f, out);
            } else if (s->odd_subsets) {
                s->low = 0;
                s->high = (uint32_t)(64 * f->h->width);
                s->stage = SEARCHING;
                s->levels = (uint32_t)f->h->levels;
                ask_tree(f, __builtin_ctz(s->odd_subsets), s->low, s->high, s->levels, out);
            } else {
                s->stage = IDLE;
            }
            return QKDD_OK;
        }
        int plain = f->h->levels == 1;
        start(f, p, plain ? out : NULL);
        s->stage = BISECTING;
        s->levels = 1;
        if (s->active && !plain) ask_deeper(f, out);
        if (s->active) return QKDD_OK;
        qkdd_status status = correct(f, p, f->ranges + f->h->list - s->found, s->found);
        if (status != QKDD_OK) return status;
    }
}

static qkdd_status bisected(frame *f, writer *out) {
    slot *s = f->s;
    qkdd_status status = correct(f, s->pass, f->ranges + f->h->list - s->found, s->found);
    return status == QKDD_OK ? go_on(f, out) : status;
}

/* One halving of all active ranges. */
static qkdd_status bisect(frame *f, reader *in, writer *out) {
    slot *s = f->s;
    const cell *cells = f->cells[s->pass];
    range *found = f->ranges + f->h->list;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->active; i++) {
        range r = f->ranges[i];
        uint32_t half = (r.to - r.from) / 2;
        int wide = r.to - r.from > 64;
        uint64_t left = 0 - get(in); /* by masks: the branch would be missed every second time */
        r.to = (uint32_t)((r.from + half) & left) | (uint32_t)(r.to & ~left);
        r.from += half & (uint32_t)~left;
        r.window >>= half & ~left & 63;
        if (r.to - r.from == 1) {
            *(found - ++s->found) = r;
        } else {
            if (wide && r.to - r.from <= 64) r.window = window_at(cells, r.from);
            put(out, half_parity(cells, &r));
            f->ranges[kept++] = r;
        }
    }
    s->active = kept;
    return kept ? QKDD_OK : bisected(f, out);
}

/* The same where the last or the next round asks deeper. */
static qkdd_status bisect_deeper(frame *f, reader *in, writer *out) {
    slot *s = f->s;
    const cell *cells = f->cells[s->pass];
    range *found = f->ranges + f->h->list;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->active; i++) {
        range r = f->ranges[i];
        follow_tree(r.from, r.to, s->levels, 1, in, &r.from, &r.to);
        if (r.to - r.from <= 64) r.window = window_at(cells, r.from);
        if (r.to - r.from == 1)
            *(found - ++s->found) = r;
        else
            f->ranges[kept++] = r;
    }
    s->active = kept;
    if (!kept) return bisected(f, out);
    ask_deeper(f, out);
    return QKDD_OK;
}

static qkdd_status search(frame *f, reader *in, writer *out) {
    slot *s = f->s;
    int subset = __builtin_ctz(s->odd_subsets);
    follow_tree(s->low, s->high, s->levels, 1, in, &s->low, &s->high);
    if (s->high - s->low > 1) {
        s->levels = (uint32_t)f->h->levels;
        ask_tree(f, subset, s->low, s->high, s->levels, out);
        return QKDD_OK;
    }
    range at = {.from = s->low};
    if (!(subset_word(f->subsets, s->low / 64, (unsigned)subset) >> (s->low % 64) & 1)) return QKDD_MALFORMED;
    qkdd_status status = correct(f, PASSES, &at, 1);
    return status == QKDD_OK ? go_on(f, out) : status;
}

static qkdd_status answer(frame *f, reader *in, writer *out) {
    slot *s = f->s;
    switch (s->stage) {
        case OPENING: opened(f, in); break;
        case BISECTING: return (s->levels | f->h->levels) == 1 ? bisect(f, in, out) : bisect_deeper(f, in, out);
        case SEARCHING: return search(f, in, out);
        default:
            for (unsigned j = 0; j < SUBSETS; j++) s->odd_subsets |= (uint32_t)get(in) << j;
    }
    return go_on(f, out);
}

/* ---- the block ---- */

typedef enum { CUT, JOIN } direction;

/* Between the packed block and its frames, 64 words at a time; returns the unused bits of the last byte. */
static uint64_t cut(uint64_t *work, const head *h, const uint8_t *packed, uint8_t *out, direction which) {
    void (*transpose)(const uint64_t *, size_t, uint64_t *, size_t) = qkdd_kernels()->transpose;
    uint64_t *frames = frames_of(work, h), plain[64], square[64], spare = 0;
    size_t i = 0, place = 0; /* frame and place in it of the next word */
    for (size_t w = 0; w < h->words; w += 64) {
        size_t words = h->words - w < 64 ? h->words - w : 64;
        size_t bits = h->size - 64 * w < 4096 ? h->size - 64 * w : 4096;
        int whole = bits == 4096;
        if (which == CUT) {
            spare = qkdd_words_from_packed(packed + 8 * w, bits, plain);
            if (whole) transpose(plain, 1, square, 1);
        }
        uint64_t *words_of_frames = whole ? square : plain;
        for (size_t j = 0; j < words; j++) {
            uint64_t *word = frames + i * h->width + place;
            if (which == CUT)
                *word = words_of_frames[j];
            else
                words_of_frames[j] = *word;
            if (++i == h->frames) {
                i = 0;
                place++;
            }
        }
        if (which == JOIN) {
            if (whole) transpose(square, 1, plain, 1);
            qkdd_packed_from_words(plain, bits, out + 8 * w);
        }
    }
    wipe(plain, sizeof plain);
    wipe(square, sizeof square);
    return spare;
}

qkdd_status qkdd_cascade_open(uint64_t *work, size_t work_size, const uint8_t *packed, size_t n, const uint8_t *seed,
                              size_t frame_bits, size_t slots, double error_rate, int correct_errors) {
    head h;
    if (!measure(&h, n, frame_bits, slots, error_rate)) return QKDD_BAD_ARGUMENT;
    if (work_size < total_words(&h)) return QKDD_NO_SPACE;
    h.correct = correct_errors != 0;
    h.magic = MAGIC;
    memcpy(work, &h, sizeof h);
    draw(work, &h, seed);
    memset(frames_of(work, &h), 0, h.frames * h.width * sizeof *work);
    for (size_t i = 0; i < h.slots; i++) slot_of(work, &h, i)->stage = IDLE;
    if (cut(work, &h, packed, NULL, CUT)) {
        wipe(work, total_words(&h) * sizeof *work);
        return QKDD_MALFORMED;
    }
    return QKDD_OK;
}

static void finish(frame *f, uint64_t *work) {
    uint64_t *bits = frames_of(work, f->h) + f->s->frame * f->h->width;
    if (f->h->correct)
        for (size_t w = 0; w < f->h->width; w++) bits[w] = f->cells[0][w].bits;
    f->h->finished++;
}

qkdd_status qkdd_cascade_step(uint64_t *work, const uint8_t *theirs, size_t size, uint8_t *mine, size_t *asked) {
    head *h = (head *)work;
    if (h->magic != MAGIC) return QKDD_BAD_ARGUMENT;
    if (size < (h->asked + 7) / 8) return QKDD_TRUNCATED;
    if (size > (h->asked + 7) / 8 || (h->asked % 8 && theirs[size - 1] & (0xFFu >> h->asked % 8))) return QKDD_MALFORMED;
    uint8_t *kept = mine_of(work, h), *difference = difference_of(work, h);
    for (size_t i = 0; i < size; i++) difference[i] = kept[i] ^ theirs[i];
    h->levels = h->asked == 0 || h->asked >= 2 * h->slots ? 1 : h->asked >= h->slots ? 2 : LEVELS;
    reader in = {difference, 0};
    writer out = {kept, 0, 0};
    for (size_t i = 0; i < h->slots; i++) {
        frame f = frame_of(work, h, i);
        if (f.s->stage != IDLE) {
            qkdd_status status = answer(&f, &in, &out);
            if (status != QKDD_OK) {
                h->magic = 0;
                return status;
            }
            if (f.s->stage == IDLE) finish(&f, work);
        }
        if (f.s->stage == IDLE && h->opened < h->frames) begin(&f, work, h->opened++, &out);
    }
    if (out.count % 8) kept[out.count / 8] = (uint8_t)(out.held << (8 - out.count % 8));
    h->asked = out.count;
    memcpy(mine, kept, (out.count + 7) / 8);
    *asked = out.count;
    return QKDD_OK;
}

qkdd_status qkdd_cascade_close(uint64_t *work, uint8_t *packed, uint64_t *errors) {
    head *h = (head *)work;
    if (h->magic != MAGIC || h->finished != h->frames) return QKDD_BAD_ARGUMENT;
    if (packed) cut(work, h, NULL, packed, JOIN);
    *errors = h->errors;
    wipe(work, total_words(h) * sizeof *work);
    return QKDD_OK;
}
