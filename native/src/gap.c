/* SPDX-License-Identifier: Apache-2.0
 * Rice coding of the differences of a sorted list (R. F. Rice, JPL 79-22, 1979). Layout:
 *   byte 0            the parameter r, 0..62 (absent when the list is empty: no bytes at all)
 *   then, bit by bit from the most significant, for every value its difference d to the one before (the first: to 0):
 *     q = d >> r < 32: q ones, a zero, the r low bits of d;  otherwise 32 ones, d in 63 bits
 *   then zero bits up to the next whole byte. */
#include "internal.h"

#define ESCAPE 32u
#define MAX_RICE 62u
#define RAW_BITS 63u

typedef struct {
    uint8_t *out;
    size_t capacity, size;
    uint64_t pending; /* `filled` bits at the low end, fewer than 8 between calls */
    unsigned filled;
    int overflow;
} bit_writer;

/* Append the low `width` (0..32) bits of value. */
static void put(bit_writer *w, uint64_t value, unsigned width) {
    w->pending = (w->pending << width) | (value & (((uint64_t)1 << width) - 1));
    w->filled += width;
    while (w->filled >= 8) {
        w->filled -= 8;
        if (w->size == w->capacity) {
            w->overflow = 1;
            w->filled = 0;
            return;
        }
        w->out[w->size++] = (uint8_t)(w->pending >> w->filled);
    }
}

static void put_long(bit_writer *w, uint64_t value, unsigned width) {
    if (width > 32) put(w, value >> 32, width - 32);
    put(w, value, width > 32 ? 32 : width);
}

static unsigned parameter(uint64_t mean) {
    unsigned bits = mean == 0 ? 0 : 64 - (unsigned)__builtin_clzll(mean); /* 2^(bits-1) <= mean */
    return bits < 2 ? 0 : (bits - 1 > MAX_RICE ? MAX_RICE : bits - 1);
}

size_t qkdd_gap_bound(size_t count) {
    /* a difference takes at most 32 + 63 bits escaped, or 32 + 62 coded */
    return count > (SIZE_MAX - 16) / 12 ? SIZE_MAX : count == 0 ? 0 : 1 + count * 12;
}

qkdd_status qkdd_gap_encode(const int64_t *values, size_t count, uint8_t *out, size_t capacity, size_t *size) {
    *size = 0;
    if (count == 0) return QKDD_OK;
    if (values[0] < 0) return QKDD_OUT_OF_RANGE;
    for (size_t i = 1; i < count; i++)
        if (values[i] < values[i - 1]) return QKDD_UNSORTED;
    if (capacity == 0) return QKDD_NO_SPACE;
    unsigned rice = parameter(count < 2 ? 0 : (uint64_t)(values[count - 1] - values[0]) / (count - 1));
    bit_writer w = {out, capacity, 0, 0, 0, 0};
    w.out[w.size++] = (uint8_t)rice;
    int64_t before = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t d = (uint64_t)(values[i] - before);
        before = values[i];
        uint64_t q = d >> rice;
        if (q < ESCAPE) {
            put(&w, 0xFFFFFFFEu, (unsigned)q + 1);
            put_long(&w, d, rice);
        } else {
            put(&w, 0xFFFFFFFFu, ESCAPE);
            put_long(&w, d, RAW_BITS);
        }
    }
    if (w.filled) put(&w, 0, 8 - w.filled);
    if (w.overflow) {
        memset(out, 0, capacity);
        return QKDD_NO_SPACE;
    }
    *size = w.size;
    return QKDD_OK;
}

typedef struct {
    const uint8_t *data;
    uint64_t bits, at; /* total and current bit position */
} bit_reader;

/* The 64 bits from `at` on, zeros behind the end. */
static uint64_t peek(const bit_reader *r) {
    size_t byte = (size_t)(r->at / 8), size = (size_t)(r->bits / 8);
    unsigned skip = r->at % 8;
    if (byte + 9 <= size) {
        uint64_t head = load_be64(r->data + byte);
        return skip ? (head << skip) | (r->data[byte + 8] >> (8 - skip)) : head;
    }
    uint64_t head = 0;
    for (size_t i = 0; i < 8; i++) head = (head << 8) | (byte + i < size ? r->data[byte + i] : 0u);
    return head << skip; /* at most 8 bytes are left, so nothing is lost by the shift */
}

static qkdd_status decode(bit_reader *r, unsigned rice, int64_t *values, size_t count) {
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t head = peek(r);
        unsigned ones = ~head == 0 ? 64 : (unsigned)__builtin_clzll(~head);
        uint64_t d;
        if (ones < ESCAPE) {
            r->at += ones + 1;
            d = rice ? ((uint64_t)ones << rice) | (peek(r) >> (64 - rice)) : ones;
            if (rice > 58 && ((uint64_t)ones << rice) >> rice != ones) return QKDD_MALFORMED;
            r->at += rice;
        } else {
            r->at += ESCAPE;
            d = peek(r) >> (64 - RAW_BITS);
            r->at += RAW_BITS;
            if (d >> rice < ESCAPE) return QKDD_MALFORMED; /* one list, one encoding */
        }
        if (r->at > r->bits) return QKDD_TRUNCATED;
        if (d > (uint64_t)INT64_MAX - value) return QKDD_MALFORMED;
        value += d;
        values[i] = (int64_t)value;
    }
    if (r->bits - r->at >= 8) return QKDD_MALFORMED;
    if (r->at % 8 && (r->data[r->at / 8] & (0xFFu >> (r->at % 8)))) return QKDD_MALFORMED;
    return QKDD_OK;
}

qkdd_status qkdd_gap_decode(const uint8_t *data, size_t size, int64_t *values, size_t count) {
    if (count == 0) return size == 0 ? QKDD_OK : QKDD_MALFORMED;
    qkdd_status status = QKDD_TRUNCATED;
    if (size > 0 && size <= SIZE_MAX / 8) {
        bit_reader r = {data, (uint64_t)size * 8, 8};
        status = data[0] <= MAX_RICE ? decode(&r, data[0], values, count) : QKDD_MALFORMED;
    }
    if (status != QKDD_OK) memset(values, 0, count * sizeof *values);
    return status;
}
