/* SPDX-License-Identifier: Apache-2.0
 * The LDPC decoder for processors with AVX-512 VBMI: the results of ldpc_layer.h, with values that stay in place (decision 0210).
 *
 * Bit i of a column stands in vector i mod V, lane i / V (V = lifting / 64), so that a circulant is a choice of vectors and a rotation
 * of their lanes, which is one instruction. A vector keeps the rotation of the layer that wrote it last. At each entry that is the same in
 * every iteration: places and rotations are listed once. */
#include "ldpc.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LANES 64
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vbmi,popcnt")))
#define INLINE TARGET static inline __attribute__((always_inline))

/* A column that begins with bit `shift` = lanes * V + first: its vector v has its lanes rotated by `lanes`, and one more if v < first. */
static inline uint32_t rotation(ldpc_split shift, size_t vector) { return shift.lanes + (uint32_t)(vector < shift.first); }

/* place * LANES + rotation for every entry and vector of checks, in the order of use */
#define PLACE(entry) ((entry) & ~(uint32_t)(LANES - 1))
#define ROTATION(entry) ((entry) & (LANES - 1))

size_t qkdd_vbmi_ldpc_bytes(const qkdd_ldpc_code *code) {
    const size_t vectors = code->lifting / LANES, entries = code->starts[code->rows] * vectors;
    return LANES * LANES + code->columns * code->lifting + entries * (LANES + 4) + 8 * code->rows * vectors +
           16 * code->columns * vectors + 4 * code->starts[code->rows] + 5 * code->columns;
}

/* ---- bytes of a column, or of a row's syndrome, to vectors and back: eight vectors at a time ---- */

/* Where byte v * 8 + r of a transposed square comes from if its rows are `wide` bytes apart, or, back, byte r * wide + v. */
static void square_places(size_t wide, uint8_t there[LANES], uint8_t back[LANES]) {
    memset(there, 0, LANES);
    memset(back, 0, LANES);
    for (size_t v = 0; v < wide; v++)
        for (size_t r = 0; r < 8; r++) there[v * 8 + r] = (uint8_t)(r * wide + v), back[r * wide + v] = (uint8_t)(v * 8 + r);
}

INLINE void transpose_words(__m512i x[8]) {
    for (int b = 0; b < 8; b += 2) {
        const __m512i low = _mm512_unpacklo_epi64(x[b], x[b + 1]);
        x[b + 1] = _mm512_unpackhi_epi64(x[b], x[b + 1]);
        x[b] = low;
    }
    for (int b = 0; b < 2; b++) {
        const __m512i near_low = _mm512_shuffle_i64x2(x[b], x[b + 2], 0x44), near_high = _mm512_shuffle_i64x2(x[b], x[b + 2], 0xEE);
        const __m512i far_low = _mm512_shuffle_i64x2(x[b + 4], x[b + 6], 0x44),
                      far_high = _mm512_shuffle_i64x2(x[b + 4], x[b + 6], 0xEE);
        x[b] = _mm512_shuffle_i64x2(near_low, far_low, 0x88);
        x[b + 2] = _mm512_shuffle_i64x2(near_low, far_low, 0xDD);
        x[b + 4] = _mm512_shuffle_i64x2(near_high, far_high, 0x88);
        x[b + 6] = _mm512_shuffle_i64x2(near_high, far_high, 0xDD);
    }
}

INLINE __mmask64 narrow(size_t vectors) { return vectors >= 8 ? ~(__mmask64)0 : ((__mmask64)1 << 8 * vectors) - 1; }

/* Vectors first to first + 7 (all, if there are fewer) of a column's bytes. */
INLINE void to_vectors(const uint8_t *bytes, size_t vectors, size_t first, __m512i places, __m512i x[8]) {
    for (size_t j = 0; j < 8; j++) {
        const uint8_t *from = bytes + 8 * j * vectors + first;
        uint64_t rows[8] __attribute__((aligned(LANES)));
        if (vectors > 8)
            for (size_t r = 0; r < 8; r++) memcpy(rows + r, from + r * vectors, 8);
        x[j] = _mm512_permutexvar_epi8(places, vectors > 8 ? _mm512_load_si512(rows)
                                                           : _mm512_maskz_loadu_epi8(narrow(vectors), from));
    }
    transpose_words(x);
}
INLINE void to_bytes(uint8_t *bytes, size_t vectors, size_t first, __m512i places, __m512i x[8]) {
    transpose_words(x);
    for (size_t j = 0; j < 8; j++) {
        uint8_t *to = bytes + 8 * j * vectors + first;
        const __m512i y = _mm512_permutexvar_epi8(places, x[j]);
        if (vectors > 8) {
            uint64_t rows[8] __attribute__((aligned(LANES)));
            _mm512_store_si512(rows, y);
            for (size_t r = 0; r < 8; r++) memcpy(to + r * vectors, rows + r, 8);
        } else
            _mm512_mask_storeu_epi8(to, narrow(vectors), y);
    }
}
/* The next eight vectors; the last eight overlap those before if they must. */
static inline size_t next_eight(size_t first, size_t vectors) {
    return first + 8 < vectors && first + 16 > vectors ? vectors - 8 : first + 8;
}

/* ---- the decoder ---- */

TARGET void qkdd_vbmi_ldpc_open(ldpc_state *state, int8_t *memory, const uint8_t *syndrome, const int8_t *prior) {
    const qkdd_ldpc_code *code = state->code;
    const size_t lifting = code->lifting, vectors = lifting / LANES, entries = code->starts[code->rows] * vectors;
    const size_t eight = vectors < 8 ? vectors : 8;
    uint8_t there[LANES], back[LANES];
    square_places(eight, there, back);
    const __m512i squares = _mm512_loadu_si512(there);
    __m512i x[8];
    state->rotations = (uint8_t *)memory, memory += LANES * LANES;
    state->values = memory, memory += code->columns * lifting;
    state->messages = memory, memory += entries * LANES;
    state->parities = (uint64_t *)(void *)memory, memory += 8 * code->rows * vectors;
    state->signs = (uint64_t *)(void *)memory, memory += 16 * code->columns * vectors;
    state->places = (uint32_t *)(void *)memory, memory += 4 * entries;
    state->splits = (ldpc_split *)(void *)memory, memory += 4 * code->starts[code->rows];
    state->turns = (ldpc_split *)(void *)memory, memory += 4 * code->columns;
    state->current = (uint8_t *)memory;
    state->fresh = 1;
    for (size_t l = 0; l < LANES; l++) there[l] = (uint8_t)l;
    const __m512i straight = _mm512_loadu_si512(there), mask = _mm512_set1_epi8(LANES - 1);
    for (size_t r = 0; r < LANES; r++)
        _mm512_store_si512(state->rotations + r * LANES,
                           _mm512_and_si512(_mm512_add_epi8(straight, _mm512_set1_epi8((char)r)), mask));

    /* quotients by the reciprocal: exact for shifts below 2^13 and V up to 128 */
    const uint32_t inverse = (uint32_t)(((1 << 20) + vectors - 1) / vectors);
    for (uint32_t e = 0; e < code->starts[code->rows]; e++) {
        const uint32_t lanes = (uint32_t)((uint64_t)code->shifts[e] * inverse >> 20);
        state->splits[e] = (ldpc_split){(uint16_t)lanes, (uint16_t)(code->shifts[e] - lanes * (uint32_t)vectors)};
    }
    /* columns as they are at the end of an iteration */
    memset(state->turns, 0, 4 * code->columns);
    for (uint32_t e = 0; e < code->starts[code->rows]; e++) state->turns[code->columns_of[e]] = state->splits[e];
    for (uint32_t c = 0; c < code->columns; c++) {
        const ldpc_split turn = state->turns[c];
        for (size_t first = 0; first < vectors; first = next_eight(first, vectors)) {
            to_vectors((const uint8_t *)prior + c * lifting, vectors, first, squares, x);
            for (size_t v = first; v < first + eight; v++) {
                const __m512i lanes = _mm512_load_si512(state->rotations + rotation(turn, v) % LANES * LANES);
                _mm512_store_si512(state->values + c * lifting + v * LANES, _mm512_permutexvar_epi8(lanes, x[v - first]));
            }
        }
    }
    uint32_t *places = state->places;
    for (uint32_t row = 0; row < code->rows; row++) {
        const uint32_t begin = code->starts[row], degree = code->starts[row + 1] - begin;
        uint32_t base[LDPC_DEGREE], lanes[LDPC_DEGREE], now[LDPC_DEGREE], before[LDPC_DEGREE];
        for (uint32_t e = 0; e < degree; e++) {
            const uint32_t column = code->columns_of[begin + e];
            const ldpc_split shift = state->splits[begin + e], turn = state->turns[column];
            state->turns[column] = shift;
            base[e] = column * (uint32_t)lifting;
            lanes[e] = (uint32_t)shift.lanes - turn.lanes;
            now[e] = shift.first, before[e] = turn.first;
        }
        for (uint32_t v = 0; v < vectors; v++, places += degree)
            for (uint32_t e = 0; e < degree; e++) {
                const uint32_t next = v + now[e], w = next - (next < vectors ? 0 : (uint32_t)vectors);
                places[e] = base[e] + w * LANES + (lanes[e] + (w < now[e]) - (w < before[e])) % LANES;
            }
        for (size_t first = 0; first < vectors; first = next_eight(first, vectors)) {
            to_vectors(syndrome + row * lifting, vectors, first, squares, x);
            for (size_t v = first; v < first + eight; v++)
                state->parities[row * vectors + v] = _mm512_test_epi8_mask(x[v - first], x[v - first]);
        }
    }
}

/* What a vector of checks gathers, and what it answers: magnitudes with the sign of the parity. */
typedef struct {
    __m512i least, second, sign;
} incoming;
typedef struct {
    __m512i least, twice, usual, other;
} outgoing;

INLINE __m512i fetch(const ldpc_state *state, uint32_t place, const int8_t *message, int8_t *held, int fresh) {
    const __m512i lanes = _mm512_load_si512(state->rotations + ROTATION(place) * LANES);
    const __m512i value = _mm512_permutexvar_epi8(lanes, _mm512_load_si512(state->values + PLACE(place)));
    const __m512i in = fresh ? value : _mm512_subs_epi8(value, _mm512_load_si512(message));
    _mm512_store_si512(held, in);
    return in;
}
INLINE void gather(incoming *sum, __m512i in) {
    const __m512i size = _mm512_abs_epi8(in);
    sum->second = _mm512_min_epu8(sum->second, _mm512_max_epu8(sum->least, size));
    sum->least = _mm512_min_epu8(sum->least, size);
    sum->sign = _mm512_xor_si512(sum->sign, in);
}
INLINE outgoing answer(const incoming *sum, uint64_t parity, __m512i table, size_t *unsatisfied) {
    const uint64_t odd = parity ^ _mm512_movepi8_mask(sum->sign);
    const __m512i usual = _mm512_permutexvar_epi8(sum->least, table), other = _mm512_permutexvar_epi8(sum->second, table);
    const __m512i zero = _mm512_setzero_si512();
    *unsatisfied += (size_t)__builtin_popcountll(odd);
    return (outgoing){sum->least, _mm512_add_epi8(sum->least, sum->least), _mm512_mask_sub_epi8(usual, odd, zero, usual),
                      _mm512_mask_sub_epi8(other, odd, zero, other)};
}
INLINE void spread(const ldpc_state *state, uint32_t place, const outgoing *out, int8_t *message, const int8_t *held) {
    const __m512i in = _mm512_load_si512(held);
    /* -least <= in <= least, by plain addition: no magnitude is below the least, or all messages are equal at LDPC_TOP */
    const __mmask64 here = _mm512_cmple_epu8_mask(_mm512_add_epi8(in, out->least), out->twice);
    __m512i sent = _mm512_mask_mov_epi8(out->usual, here, out->other);
    sent = _mm512_mask_sub_epi8(sent, _mm512_movepi8_mask(in), _mm512_setzero_si512(), sent);
    _mm512_store_si512(message, sent);
    _mm512_store_si512(state->values + PLACE(place), _mm512_adds_epi8(in, sent));
}

/* What one vector of checks sends and what the next gathers go together: the first waits for stores, the second for arithmetic. */
INLINE size_t iterate(const ldpc_state *given, const uint8_t *table, int fresh) {
    const ldpc_state own = *given, *state = &own; /* a copy: stores of bytes cannot change it */
    const qkdd_ldpc_code *code = state->code;
    const size_t vectors = code->lifting / LANES;
    const __m512i lookup = _mm512_loadu_si512(table), top = _mm512_set1_epi8(LDPC_TOP);
    const incoming none = {top, top, _mm512_setzero_si512()};
    int8_t buffer[2 * LDPC_DEGREE * LANES] __attribute__((aligned(LANES)));
    const uint32_t *places = state->places;
    const uint64_t *parity = state->parities;
    int8_t *messages = state->messages;
    size_t unsatisfied = 0;
    for (uint32_t row = 0; row < code->rows; row++) {
        const size_t degree = code->starts[row + 1] - code->starts[row];
        int8_t *held = buffer, *next = buffer + LDPC_DEGREE * LANES;
        incoming sum = none;
#pragma GCC unroll 2
        for (size_t e = 0; e < degree; e++)
            gather(&sum, fetch(state, places[e], messages + e * LANES, held + e * LANES, fresh));
        for (size_t v = 1; v < vectors; v++) {
            const outgoing out = answer(&sum, *parity++, lookup, &unsatisfied);
            const uint32_t *later = places + degree;
            int8_t *further = messages + degree * LANES, *before = held;
            sum = none;
#pragma GCC unroll 2
            for (size_t e = 0; e < degree; e++) {
                const __m512i in = fetch(state, later[e], further + e * LANES, next + e * LANES, fresh);
                spread(state, places[e], &out, messages + e * LANES, held + e * LANES);
                gather(&sum, in);
            }
            places = later, messages = further, held = next, next = before;
        }
        const outgoing out = answer(&sum, *parity++, lookup, &unsatisfied);
#pragma GCC unroll 2
        for (size_t e = 0; e < degree; e++) spread(state, places[e], &out, messages + e * LANES, held + e * LANES);
        places += degree, messages += degree * LANES;
    }
    return unsatisfied;
}

TARGET size_t qkdd_vbmi_ldpc_iterate(ldpc_state *state, const uint8_t table[LDPC_TOP + 1]) {
    const size_t unsatisfied = state->fresh ? iterate(state, table, 1) : iterate(state, table, 0);
    state->fresh = 0;
    return unsatisfied;
}

/* Signs are packed when a row first asks for their column: vectors twice, the second time a lane further, so that V of them from any
 * shift on are in one piece. */
TARGET int qkdd_vbmi_ldpc_satisfied(const ldpc_state *state) {
    const qkdd_ldpc_code *code = state->code;
    const size_t lifting = code->lifting, vectors = lifting / LANES;
    memset(state->current, 0, code->columns);
    for (uint32_t row = 0; row < code->rows; row++) {
        uint64_t odd[LDPC_MOST / LANES];
        memcpy(odd, state->parities + row * vectors, 8 * vectors);
        for (uint32_t e = code->starts[row]; e < code->starts[row + 1]; e++) {
            const uint32_t column = code->columns_of[e];
            const ldpc_split shift = state->splits[e];
            uint64_t *signs = state->signs + 2 * column * vectors;
            if (!state->current[column]) {
                const ldpc_split turn = state->turns[column];
                state->current[column] = 1;
                for (size_t v = 0; v < vectors; v++) {
                    const unsigned back = rotation(turn, v) % LANES;
                    const uint64_t sign = _mm512_movepi8_mask(_mm512_load_si512(state->values + column * lifting + v * LANES));
                    signs[v] = sign << back | sign >> (-back % LANES);
                    signs[v + vectors] = signs[v] >> 1 | signs[v] << (LANES - 1);
                }
            }
            const __m512i lanes = _mm512_set1_epi64((long long)shift.lanes);
            size_t v = 0;
            for (; v + 8 <= vectors; v += 8)
                _mm512_storeu_si512(odd + v, _mm512_xor_si512(_mm512_loadu_si512(odd + v),
                                                              _mm512_rorv_epi64(_mm512_loadu_si512(signs + shift.first + v), lanes)));
            for (; v < vectors; v++) {
                const uint64_t sign = signs[shift.first + v];
                odd[v] ^= sign >> shift.lanes | sign << (-(uint32_t)shift.lanes % LANES);
            }
        }
        uint64_t all = 0;
        for (size_t v = 0; v < vectors; v++) all |= odd[v];
        if (all) return 0;
    }
    return 1;
}

TARGET void qkdd_vbmi_ldpc_close(const ldpc_state *state, int found, uint8_t *errors) {
    const qkdd_ldpc_code *code = state->code;
    const size_t lifting = code->lifting, vectors = lifting / LANES, eight = vectors < 8 ? vectors : 8;
    uint8_t there[LANES], back[LANES];
    square_places(eight, there, back);
    const __m512i squares = _mm512_loadu_si512(back), one = _mm512_set1_epi8(found != 0);
    __m512i x[8] = {0};
    for (uint32_t c = 0; c < code->columns; c++) {
        const ldpc_split turn = state->turns[c];
        for (size_t first = 0; first < vectors; first = next_eight(first, vectors)) {
            for (size_t v = first; v < first + eight; v++) {
                const __m512i value = _mm512_load_si512(state->values + c * lifting + v * LANES);
                const __m512i lanes = _mm512_load_si512(state->rotations + -rotation(turn, v) % LANES * LANES);
                x[v - first] = _mm512_permutexvar_epi8(lanes, _mm512_maskz_mov_epi8(_mm512_movepi8_mask(value), one));
            }
            to_bytes(errors + c * lifting, vectors, first, squares, x);
        }
    }
}
#endif
