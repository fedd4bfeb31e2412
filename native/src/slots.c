/* SPDX-License-Identifier: Apache-2.0
 * Clicks of a receiver into slots of a pulsed transmitter, in one pass: the clock model is followed, clicks outside the gate and
 * clicks during which a detector could have been dead are dropped, clicks of one slot become one pattern of detectors. */
#include <math.h>

#include "internal.h"

#define CHUNK 512u
#define TURN 6.283185307179586
#define MAX_RATE 1.0        /* slots a picosecond */
#define MAX_SPAN 2147483000.0 /* slots between two corrections of the model, so that a slot counted from it fits 32 bits */

static int usable(const qkdd_slot_state *s, const qkdd_slot_settings *a) {
    return s->rate > 0 && s->rate <= MAX_RATE && s->phase >= -2 && s->phase <= 2 && a->half_gate > 0 && a->half_gate <= 0.5 &&
           a->dead >= 0 && a->dead <= ((int64_t)1 << 50) && a->piece_clicks >= 16 && a->piece_ps > 0 &&
           (double)a->piece_ps * s->rate < MAX_SPAN / 4 && a->gain_phase >= 0 && a->gain_phase <= 1 && a->gain_rate >= 0 &&
           a->gain_rate <= 1 && a->contrast >= 0 && a->rate_low > 0 && a->rate_low <= s->rate && s->rate <= a->rate_high;
}

/* The model about another moment. */
static void rebase(qkdd_slot_state *s, int64_t moment) {
    double x = (double)(moment - s->origin) * s->rate + s->phase, whole = floor(x);
    s->slot += (int64_t)whole;
    s->phase = x - whole;
    s->origin = moment;
}

/* Correct the model by the piece that ends at `moment`, and note what was measured. */
static void conclude(qkdd_slot_state *s, const qkdd_slot_settings *a, int64_t moment, qkdd_slot_piece *piece) {
    double n = (double)s->piece_count, size = n > 0 ? hypot(s->cosine, s->sine) / n : 0;
    double error = n > 0 ? atan2(s->sine, s->cosine) / TURN : 0, span = (double)(moment - s->piece_start);
    double noise = n > 0 ? 5 / sqrt(n) : 1;
    piece->moment = moment;
    piece->clicks = s->piece_count;
    piece->error = error;
    piece->contrast = size;
    rebase(s, moment);
    piece->followed = size >= a->contrast && size >= noise && n >= 16;
    if (piece->followed) {
        s->phase -= a->gain_phase * error;
        if (span > 0) s->rate -= a->gain_rate * error / span;
        if (s->rate < a->rate_low) s->rate = a->rate_low;
        if (s->rate > a->rate_high) s->rate = a->rate_high;
    }
    piece->rate = s->rate;
    s->piece_start = moment;
    s->piece_count = 0;
    s->cosine = s->sine = 0;
}

/* Whether a whole slot has passed between the end of slot `open` and `moment`. */
static int closed(const qkdd_slot_state *s, int64_t moment) {
    double x = (double)(moment - s->origin) * s->rate + s->phase;
    return floor(x - 0.5) > (double)(s->open - s->slot);
}

qkdd_status qkdd_assign_slots(qkdd_slot_state *state, const qkdd_slot_settings *settings, const int64_t *times,
                              const uint8_t *detectors, size_t count, int64_t until, int64_t *slots, uint8_t *patterns,
                              size_t capacity, size_t *events, qkdd_slot_piece *pieces, size_t piece_capacity,
                              size_t *piece_count) {
    *events = *piece_count = 0;
    if (!usable(state, settings)) return QKDD_BAD_ARGUMENT;
    const int64_t limit = (int64_t)1 << 61;
    if (!qkdd_kernels()->sorted(times, count)) return QKDD_UNSORTED;
    if (until > limit || until < -limit || until < state->piece_start || state->piece_start < -limit) return QKDD_UNSORTED;
    if (count > 0 && (times[0] < state->piece_start || times[count - 1] > until)) return QKDD_UNSORTED;
    for (size_t i = 0; i < count; i++)
        if (detectors[i] > 3) return QKDD_OUT_OF_RANGE;
    uint64_t span = (uint64_t)(until - state->piece_start);
    uint64_t most = (state->piece_count + count) / settings->piece_clicks + span / (uint64_t)settings->piece_ps + 2;
    if (capacity < count + 1 || piece_capacity < most) return QKDD_NO_SPACE;
    double cosines[256], sines[256]; /* not static: nothing shared between threads */
    for (unsigned i = 0; i < 256; i++) {
        cosines[i] = cos(TURN * ((double)i - 127.5) / 256);
        sines[i] = sin(TURN * ((double)i - 127.5) / 256);
    }
    qkdd_slot_state s = *state; /* in registers; written back at the end */
    size_t made = 0, done = 0, at = 0;
    int32_t rel[CHUNK];
    uint8_t fine[CHUNK], inside[CHUNK];
    while (at < count) {
        while (times[at] - s.piece_start >= settings->piece_ps)
            conclude(&s, settings, s.piece_start + settings->piece_ps, &pieces[done++]);
        int64_t end = s.piece_start + settings->piece_ps;
        size_t n = count - at, room = (size_t)(settings->piece_clicks - s.piece_count);
        if (n > CHUNK) n = CHUNK;
        if (n > room) n = room;
        while (times[at + n - 1] >= end) n--; /* times[at] < end */
        qkdd_kernels()->slot_cells(times + at, n, s.origin, s.rate, s.phase, settings->half_gate, rel, fine, inside);
        for (size_t i = 0; i < n; i++) {
            int64_t t = times[at + i], slot = s.slot + rel[i];
            int live = t - s.last >= settings->dead;
            s.last = t;
            s.cosine += cosines[fine[i]];
            s.sine += sines[fine[i]];
            if (!inside[i]) {
                s.outside++;
                continue;
            }
            uint8_t mark = (uint8_t)(1u << detectors[at + i]);
            if (s.pattern && slot == s.open) {
                s.pattern |= mark;
                s.joined++;
            } else if (live && slot > s.open) {
                if (s.pattern) {
                    slots[made] = s.open;
                    patterns[made++] = s.pattern;
                }
                s.open = slot;
                s.pattern = mark;
            } else {
                s.blanked++;
            }
        }
        s.clicks += n;
        s.piece_count += n;
        at += n;
        if (s.piece_count >= settings->piece_clicks && times[at - 1] > s.piece_start)
            conclude(&s, settings, times[at - 1], &pieces[done++]);
        else if (s.piece_count >= settings->piece_clicks) /* all at one moment: no clock to follow */
            s.piece_count = 0, s.cosine = s.sine = 0;
    }
    while (until - s.piece_start >= settings->piece_ps)
        conclude(&s, settings, s.piece_start + settings->piece_ps, &pieces[done++]);
    if (s.pattern && closed(&s, until)) {
        slots[made] = s.open;
        patterns[made++] = s.pattern;
        s.pattern = 0;
    }
    *state = s;
    *events = made;
    *piece_count = done;
    return QKDD_OK;
}
