/* SPDX-License-Identifier: Apache-2.0
 * Decoders of the tag formats. Layouts: S-Fifteen TDC1 and timestamp7 (format a1), public driver sources of the vendor. */
#include "internal.h"

#define TDC1_COUNTER_BITS 27
#define TDC1_RANGE ((uint32_t)1 << TDC1_COUNTER_BITS)
#define TDC1_DISORDER ((uint32_t)1 << 16) /* 131 us: far above the delay between inputs, far below the dummies' 140 ms */
#define TDC1_UNIT_PS 2000
#define TDC1_MAX_WRAPS ((int64_t)1 << 24) /* 52 days; the product below stays inside int64 */
#define DUMMY 0x10u
#define INPUTS 0x0Fu

qkdd_status qkdd_decode_tdc1(const uint32_t *words, size_t count, qkdd_tdc1_state *state, int64_t *times,
                             uint8_t *patterns, size_t *clicks, size_t *dummies) {
    qkdd_tdc1_state s = *state;
    size_t n = 0, marks = 0;
    *clicks = *dummies = 0;
    if (s.last >= TDC1_RANGE || s.wraps < -1 || s.wraps > TDC1_MAX_WRAPS) return QKDD_BAD_ARGUMENT;
    s.largest_step = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t word = words[i];
        if ((word & (DUMMY | INPUTS)) == 0) { /* also the all-zero word of a void USB return */
            s.voids++;
            continue;
        }
        uint32_t counter = word >> 5;
        if (s.started) {
            uint32_t step = (counter - s.last) & (TDC1_RANGE - 1);
            if (step >= TDC1_RANGE - TDC1_DISORDER) {
                s.wraps -= counter > s.last;
            } else {
                s.wraps += counter < s.last;
                if (step > s.largest_step) s.largest_step = step;
            }
        }
        s.started = 1;
        s.last = counter;
        times[n] = (s.wraps * (int64_t)TDC1_RANGE + counter) * TDC1_UNIT_PS;
        patterns[n] = (uint8_t)(word & INPUTS);
        unsigned dummy = (word & DUMMY) != 0;
        marks += dummy;
        n += !dummy;
    }
    *state = s;
    *clicks = n;
    *dummies = marks;
    return QKDD_OK;
}

qkdd_status qkdd_decode_a1(const uint8_t *data, size_t size, int swapped, int64_t *times, uint8_t *patterns,
                           uint8_t *dummies, size_t *records) {
    size_t n = 0;
    unsigned turn = swapped ? 32 : 0;
    *records = 0;
    if (size % 8) return QKDD_TRUNCATED;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = load_le64(data + i);
        word = turn ? (word << 32) | (word >> 32) : word;
        /* 1/256 ns = 125/32 ps; 2^54 * 125 < 2^61 */
        times[n] = (int64_t)(((word >> 10) * 125 + 16) >> 5);
        patterns[n] = (uint8_t)(word & INPUTS);
        dummies[n] = (word & DUMMY) != 0;
        n += word != 0;
    }
    *records = n;
    return QKDD_OK;
}

qkdd_status qkdd_expand_patterns(const int64_t *times, const uint8_t *patterns, size_t count, int64_t *out_times,
                                 uint8_t *channels, size_t capacity, size_t *rows) {
    size_t n = 0;
    *rows = 0;
    for (size_t i = 0; i < count; i++) n += (size_t)__builtin_popcount(patterns[i]);
    if (channels != NULL) {
        if (n > capacity) return QKDD_NO_SPACE;
        size_t k = 0;
        for (size_t i = 0; i < count; i++) {
            for (unsigned rest = patterns[i]; rest != 0; rest &= rest - 1, k++) {
                out_times[k] = times[i];
                channels[k] = (uint8_t)__builtin_ctz(rest);
            }
        }
    }
    *rows = n;
    return QKDD_OK;
}
