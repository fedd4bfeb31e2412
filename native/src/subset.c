/* SPDX-License-Identifier: Apache-2.0
 * Random subsets of a block and the two parts that they cut it into. Maps are packed, most significant bit first. */
#include "internal.h"

/* Positions are uniform: a draw of 32 bits times m, the upper half, and the few draws refused that would favour some of them
 * (Lemire, ACM Trans. Model. Comput. Simul. 29 (2019) 3). Draws that hit a chosen position are dropped, so every subset of a size
 * is equally likely. */
qkdd_status qkdd_subset_draw(const uint8_t *random, size_t draws, size_t m, uint8_t *map, size_t *missing) {
    if (m == 0 || m > UINT32_MAX || *missing > m) return QKDD_BAD_ARGUMENT;
    uint32_t refused = (uint32_t)(((uint64_t)1 << 32) % m);
    size_t left = *missing;
    for (size_t i = 0; i < draws && left > 0; i++) {
        uint32_t draw = (uint32_t)random[4 * i] | (uint32_t)random[4 * i + 1] << 8 | (uint32_t)random[4 * i + 2] << 16 |
                        (uint32_t)random[4 * i + 3] << 24;
        uint64_t product = (uint64_t)draw * m;
        if ((uint32_t)product < refused) continue;
        size_t place = product >> 32;
        uint8_t bit = (uint8_t)(0x80 >> place % 8);
        left -= !(map[place / 8] & bit);
        map[place / 8] |= bit;
    }
    *missing = left;
    return QKDD_OK;
}

/* The bits of `word` under `mask`, moved together at the low end (Steele, in Warren, Hacker's Delight, 7-4). */
static inline uint64_t extract_portable(uint64_t word, uint64_t mask) {
    word &= mask;
    uint64_t gaps = ~mask << 1;
    for (unsigned i = 0; i < 6; i++) {
        uint64_t sums = gaps;
        for (unsigned step = 1; step < 64; step *= 2) sums ^= sums << step;
        uint64_t moving = sums & mask;
        mask = (mask ^ moving) | (moving >> (1u << i));
        uint64_t moved = word & moving;
        word = (word ^ moved) | (moved >> (1u << i));
        gaps &= ~sums;
    }
    return word;
}

/* Bits from the most significant end of `held` on; whole words go out. */
typedef struct {
    uint8_t *out;
    uint64_t held;
    unsigned count; /* in held, below 64 */
} writer;

static inline void put(writer *w, uint64_t bits, unsigned count) {
    if (count == 0) return;
    uint64_t top = bits << (64 - count);
    unsigned room = 64 - w->count;
    w->held |= top >> w->count;
    if (count < room) {
        w->count += count;
        return;
    }
    store_be64(w->out, w->held);
    w->out += 8;
    w->count = count - room;
    w->held = w->count ? top << room : 0;
}

static void flush(writer *w) {
    uint8_t last[8];
    store_be64(last, w->held);
    memcpy(w->out, last, (w->count + 7) / 8);
    wipe(last, sizeof last);
}

#define SPLIT(name, target, extract)                                                                                \
    target static void name(const uint8_t *bits, const uint8_t *map, size_t words, writer *inside, writer *outside) { \
        for (size_t i = 0; i < words; i++) {                                                                        \
            uint64_t word = load_be64(bits + 8 * i), mask = load_be64(map + 8 * i);                                 \
            unsigned chosen = (unsigned)__builtin_popcountll(mask);                                                 \
            put(inside, extract(word, mask), chosen);                                                               \
            put(outside, extract(word, ~mask), 64 - chosen);                                                        \
        }                                                                                                           \
    }

SPLIT(split_portable, , extract_portable)
#if defined(__x86_64__)
#include <immintrin.h>
SPLIT(split_bmi2, __attribute__((target("bmi2,popcnt"))), _pext_u64)
#endif

qkdd_status qkdd_subset_split(const uint8_t *bits, const uint8_t *map, size_t m, size_t k, uint8_t *inside,
                              uint8_t *outside) {
    size_t words = m / 64, chosen = 0;
    uint8_t last[8] = {0}, last_map[8] = {0};
    memcpy(last, bits + 8 * words, (m % 64 + 7) / 8);
    memcpy(last_map, map + 8 * words, (m % 64 + 7) / 8);
    uint64_t valid = m % 64 ? ~(uint64_t)0 << (64 - m % 64) : 0, word = load_be64(last), mask = load_be64(last_map);
    for (size_t i = 0; i < words; i++) chosen += (size_t)__builtin_popcountll(load_le64(map + 8 * i));
    chosen += (size_t)__builtin_popcountll(mask);
    if ((word | mask) & ~valid || chosen != k) return QKDD_MALFORMED;
    void (*split)(const uint8_t *, const uint8_t *, size_t, writer *, writer *) = split_portable;
#if defined(__x86_64__)
    if (qkdd_variant_current() != QKDD_PORTABLE) split = split_bmi2;
#endif
    writer in = {inside, 0, 0}, out = {outside, 0, 0};
    split(bits, map, words, &in, &out);
    put(&in, extract_portable(word, mask), (unsigned)__builtin_popcountll(mask));
    put(&out, extract_portable(word, valid & ~mask), (unsigned)(m % 64) - (unsigned)__builtin_popcountll(mask));
    flush(&in);
    flush(&out);
    wipe(last, sizeof last);
    return QKDD_OK;
}

enum { GAP = 255, AT_ONCE = 4 };

/* The gaps of one word's positions; *next is the one behind the position before. As many bytes are written as it has positions,
 * but at least four whatever it has: how many of its 64 there are is nothing that a processor can guess. Room for these is the
 * caller's to see to. Gives the place behind the last byte that counts. */
static inline __attribute__((always_inline)) uint8_t *gaps_of(uint64_t word, size_t start, size_t *next, uint8_t *out) {
    size_t before = *next - start;
    unsigned count = (unsigned)__builtin_popcountll(word);
    if (__builtin_expect((size_t)__builtin_clzll(word | 1) - before >= GAP, 0) && count)
        for (; (size_t)__builtin_clzll(word) - before >= GAP; before += GAP) *out++ = GAP;
    size_t behind = start + 64 - (size_t)__builtin_ctzll(word | (uint64_t)1 << 63);
    *next ^= (*next ^ behind) & -(size_t)(count != 0); /* no branch */
    for (unsigned i = 0; i < AT_ONCE || i < count; i++) {
        size_t place = (size_t)__builtin_clzll(word | 1);
        out[i] = (uint8_t)(place - before);
        before = place + 1;
        word &= ~((uint64_t)1 << 63 >> place);
    }
    return out + count;
}

typedef struct {
    size_t start, next, found; /* bits read; behind the last position; positions */
    uint8_t *at;
} packer;

/* Whole words while there is room for whatever they have. By value: bytes that are written might be anybody's fields. */
#define GAPS(name, target)                                                                       \
    target static packer name(const uint8_t *map, size_t m, packer p, const uint8_t *end) {      \
        for (; p.start + 64 <= m; p.start += 64) {                                               \
            if ((size_t)(end - p.at) < 64 + AT_ONCE + (p.start + 64 - p.next) / GAP) break;      \
            uint64_t word = load_be64(map + p.start / 8);                                        \
            p.found += (size_t)__builtin_popcountll(word);                                       \
            p.at = gaps_of(word, p.start, &p.next, p.at);                                        \
        }                                                                                        \
        return p;                                                                                \
    }

GAPS(gaps_portable, )
#if defined(__x86_64__)
GAPS(gaps_bmi2, __attribute__((target("bmi,bmi2,lzcnt,popcnt"))))
#endif

qkdd_status qkdd_subset_pack(const uint8_t *map, size_t m, size_t k, uint8_t *out, size_t capacity, size_t *size) {
    packer (*gaps)(const uint8_t *, size_t, packer, const uint8_t *) = gaps_portable;
#if defined(__x86_64__)
    if (qkdd_variant_current() != QKDD_PORTABLE) gaps = gaps_bmi2;
#endif
    const uint8_t *end = out + capacity;
    packer p = gaps(map, m, (packer){0, 0, 0, out}, end);
    *size = 0;
    for (; p.start < m; p.start += 64) { /* near the end of the room: by way of a room of its own */
        uint8_t last[8] = {0}, tail[64 + AT_ONCE];
        memcpy(last, map + p.start / 8, (m - p.start < 64 ? m - p.start + 7 : 64) / 8);
        uint64_t word = load_be64(last);
        p.found += (size_t)__builtin_popcountll(word);
        for (; word && p.start + (size_t)__builtin_clzll(word) - p.next >= GAP; p.next += GAP) {
            if (p.at == end) return QKDD_NO_SPACE;
            *p.at++ = GAP;
        }
        size_t some = (size_t)(gaps_of(word, p.start, &p.next, tail) - tail);
        if ((size_t)(end - p.at) < some) return QKDD_NO_SPACE;
        memcpy(p.at, tail, some);
        p.at += some;
    }
    if (p.found != k || p.next > m) return QKDD_MALFORMED;
    *size = (size_t)(p.at - out);
    return QKDD_OK;
}

qkdd_status qkdd_subset_unpack(const uint8_t *data, size_t size, size_t m, size_t k, uint8_t *map) {
    if (size > 0 && data[size - 1] == GAP) return QKDD_MALFORMED; /* bytes behind the last position */
    size_t place = 0, found = 0;
    for (size_t i = 0; i < size; i++) {
        size_t gap = data[i];
        if (gap >= m - place) return QKDD_MALFORMED;
        place += gap;
        if (gap == GAP) continue;
        map[place / 8] |= (uint8_t)(0x80 >> place % 8);
        place++;
        found++;
    }
    return found == k ? QKDD_OK : QKDD_MALFORMED;
}

/* Eight tables side by side: neighbours of one class must not wait for each other's sums. What is not chosen counts in the upper
 * half of a table. */
qkdd_status qkdd_class_counts(const uint8_t *labels, const uint8_t *chosen, size_t count, uint64_t *counts) {
    enum { TABLES = 8, CLASSES = 256, MOST = 1 << 30 };
    uint32_t tables[TABLES][2 * CLASSES];
    memset(counts, 0, CLASSES * sizeof *counts);
    for (size_t done = 0; done < count;) {
        size_t some = count - done < MOST ? count - done : MOST;
        memset(tables, 0, sizeof tables);
        const uint8_t *from = labels + done, *wanted = chosen ? chosen + done : NULL;
        size_t i = 0;
        if (wanted) {
            for (; i + TABLES <= some; i += TABLES)
                for (size_t t = 0; t < TABLES; t++) tables[t][from[i + t] | (size_t)(wanted[i + t] == 0) << 8]++;
        } else {
            for (; i + TABLES <= some; i += TABLES) {
                uint64_t labels_of_eight = load_le64(from + i);
                for (size_t t = 0; t < TABLES; t++) tables[t][labels_of_eight >> (8 * t) & 0xFF]++;
            }
        }
        for (; i < some; i++) tables[0][from[i] | (size_t)(wanted && !wanted[i]) << 8]++;
        for (size_t t = 0; t < TABLES; t++)
            for (size_t c = 0; c < CLASSES; c++) counts[c] += tables[t][c];
        done += some;
    }
    return QKDD_OK;
}
