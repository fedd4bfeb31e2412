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
#include "cascade.h"

size_t qkdd_cascade_workspace(size_t n, size_t frame_bits, size_t slots, double error_rate) {
    head h;
    return measure(&h, n, frame_bits, slots, error_rate) ? total_words(&h) : 0;
}

size_t qkdd_cascade_message(const uint64_t *work) {
    const head *h = (const head *)work;
    return h->magic == MAGIC ? h->message : 0;
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
