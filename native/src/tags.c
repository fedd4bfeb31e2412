/* SPDX-License-Identifier: Apache-2.0
 * Decoders of the tag formats. Layouts: S-Fifteen TDC1 and timestamp7 (format a1), public driver sources of the vendor; T2,
 * PicoQuant's public file format (PTU) and its demos. */
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

#define T2_SPECIAL 0x80000000u
#define T2_OVERFLOW1 33552000
#define T2_OVERFLOW2 33554432
#define T2_OVERFLOW_PICOHARP 210698240
#define T2_LIMIT ((int64_t)1 << 61) /* of a time in ps */

/* One loop for each layout: the compiler drops what the others need. No branch depends on the kind of a record. */
static inline __attribute__((always_inline)) qkdd_status t2(const uint32_t *words, size_t count, qkdd_t2_layout layout,
                                                            int64_t unit, int64_t *overflow, int64_t *times,
                                                            uint8_t *channels, size_t *clicks, size_t *markers) {
    int64_t above = *overflow;
    size_t n = 0, marks = 0;
    unsigned bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t word = words[i];
        int64_t wraps;
        unsigned channel, click, marker;
        if (layout == QKDD_T2_PICOHARP) {
            channel = word >> 28;
            uint32_t special = channel == 15, low = word & 15;
            wraps = special & (low == 0);
            above += wraps * T2_OVERFLOW_PICOHARP;
            times[n] = (above + (int64_t)(word & 0x0FFFFFFFu)) * unit;
            click = !special;
            marker = special & (low != 0);
            bad |= (channel > 4) & !special;
        } else {
            unsigned special = (word & T2_SPECIAL) != 0, code = word >> 25 & 63;
            uint32_t time = word & 0x01FFFFFFu;
            unsigned overflowed = special & (code == 63);
            wraps = layout == QKDD_T2_HYDRAHARP1 ? 1 : (int64_t)time + (time == 0);
            above += overflowed ? wraps * (layout == QKDD_T2_HYDRAHARP1 ? T2_OVERFLOW1 : T2_OVERFLOW2) : 0;
            times[n] = (int64_t)((uint64_t)(above + time) * (uint64_t)unit); /* checked at the end */
            channel = special ? 0 : code + 1;
            click = !special | (code == 0);
            marker = special & (code >= 1) & (code <= 15);
            bad |= special & (code > 15) & (code != 63);
        }
        channels[n] = (uint8_t)channel;
        n += click;
        marks += marker;
    }
    if (bad) return QKDD_MALFORMED;
    *overflow = above;
    *clicks = n;
    *markers = marks;
    return QKDD_OK;
}

qkdd_status qkdd_decode_t2(const uint32_t *words, size_t count, qkdd_t2_layout layout, uint32_t unit_ps, int64_t *overflow,
                           int64_t *times, uint8_t *channels, size_t *clicks, size_t *markers) {
    int64_t unit = unit_ps, above = *overflow;
    *clicks = *markers = 0;
    if ((int)layout < 0 || layout >= QKDD_T2_LAYOUTS || unit < 1 || unit > 1000000 || above < 0 || above > T2_LIMIT / unit ||
        count > (size_t)1 << 36)
        return QKDD_BAD_ARGUMENT;
    /* in pieces, so that garbage with overflow counts of 2^25 cannot pass the end of int64 before it is seen */
    qkdd_status status = QKDD_OK;
    for (size_t done = 0; done < count && status == QKDD_OK;) {
        size_t length = count - done < 2048 ? count - done : 2048, n, marks; /* 2048 * 2^25 * 2^25 = 2^61 */
        const uint32_t *from = words + done;
        int64_t *to = times + *clicks;
        uint8_t *kinds = channels + *clicks;
        if (layout == QKDD_T2_PICOHARP)
            status = t2(from, length, QKDD_T2_PICOHARP, unit, &above, to, kinds, &n, &marks);
        else if (layout == QKDD_T2_HYDRAHARP2)
            status = t2(from, length, QKDD_T2_HYDRAHARP2, unit, &above, to, kinds, &n, &marks);
        else
            status = t2(from, length, QKDD_T2_HYDRAHARP1, unit, &above, to, kinds, &n, &marks);
        if (status != QKDD_OK) break;
        if (above > (T2_LIMIT - T2_OVERFLOW_PICOHARP * (int64_t)1000000) / unit) status = QKDD_OUT_OF_RANGE;
        *clicks += n;
        *markers += marks;
        done += length;
    }
    if (status == QKDD_OK) {
        *overflow = above;
        return QKDD_OK;
    }
    *clicks = *markers = 0;
    if (count > 0) {
        memset(times, 0, count * sizeof *times);
        memset(channels, 0, count);
    }
    return status;
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
