/* SPDX-License-Identifier: Apache-2.0
 * Layered min-sum on one vector of lanes along the lifting. Included once a variant, with: V, LANES, LOAD (unaligned), STORE (aligned),
 * ONE (a byte in every lane), XOR, SUBS, ADDS (saturating), SIZE (magnitude, at most LDPC_TOP), MIN, MAX (bytes up to LDPC_TOP),
 * LOOKUP, NEGATIVE (count of negative lanes), SIGNED (magnitude, sign: negated where the sign is negative), PICK (a, b, x, y: x where
 * a equals b, else y), NAME, TARGET.
 *
 * Two equal smallest magnitudes make the second equal to the first, so "magnitude is the smallest" needs no index.
 *
 * What one vector of checks sends and what the next gathers go together. The next values are read from anywhere, unaligned; by then
 * nothing is needed any more of the vector in which they begin, so what is sent goes there, aligned: a column stays in one array, its
 * bits move by a vector. */

#define ROW (LDPC_DEGREE + 7) /* in whole eights */

typedef struct {
    V least, second, sign;
} NAME(incoming);
typedef struct {
    V least, usual, other;
} NAME(outgoing);

/* The next vector of a row's columns, eight columns at a time. */
TARGET static inline void NAME(advance)(int32_t *places, const int32_t *ends, size_t count, int32_t lifting) {
    for (size_t e = 0; e < count; e += 8)
        for (size_t i = e; i < e + 8; i++) {
            const int32_t next = places[i] + LANES;
            places[i] = next >= ends[i] ? next - lifting : next;
        }
}

TARGET static inline V NAME(fetch)(const int8_t *value, const int8_t *message, int8_t *held, int fresh) {
    V in = LOAD(value);
    if (!fresh) in = SUBS(in, LOAD(message));
    STORE(held, in);
    return in;
}
TARGET static inline void NAME(gather)(NAME(incoming) *sum, V in) {
    const V size = SIZE(in);
    sum->second = MIN(sum->second, MAX(sum->least, size));
    sum->least = MIN(sum->least, size);
    sum->sign = XOR(sum->sign, in);
}
TARGET static inline NAME(outgoing) NAME(answer)(const NAME(incoming) *sum, const uint8_t *table, size_t *unsatisfied) {
    *unsatisfied += NEGATIVE(sum->sign);
    return (NAME(outgoing)){sum->least, SIGNED(LOOKUP(sum->least, table), sum->sign), SIGNED(LOOKUP(sum->second, table), sum->sign)};
}
TARGET static inline void NAME(spread)(const NAME(outgoing) *out, const int8_t *held, int8_t *message, int8_t *value) {
    const V in = LOAD(held), sent = SIGNED(PICK(SIZE(in), out->least, out->other, out->usual), in);
    STORE(message, sent);
    STORE(value, ADDS(in, sent));
}

TARGET static inline __attribute__((always_inline)) size_t NAME(layers)(const ldpc_state *given, const uint8_t *table, int fresh) {
    const ldpc_state own = *given, *state = &own; /* a copy: stores of bytes cannot change it */
    const qkdd_ldpc_code *code = state->code;
    const uint32_t lifting = code->lifting, stride = (uint32_t)state->stride;
    int8_t buffer[2 * LDPC_DEGREE * LANES] __attribute__((aligned(64)));
    int32_t places[ROW] = {0}, ends[ROW] = {0};
    const V top = ONE(LDPC_TOP);
    const uint8_t *target = state->target;
    int8_t *messages = state->messages;
    size_t unsatisfied = 0;
    for (uint32_t row = 0; row < code->rows; row++) {
        const uint32_t first = code->starts[row];
        const size_t degree = code->starts[row + 1] - first;
        for (size_t e = 0; e < degree; e++) {
            const uint32_t column = code->columns_of[first + e], shift = code->shifts[first + e];
            const uint32_t begin = ldpc_place(state, column, shift), next = begin / LANES * LANES + LANES;
            int8_t *array = state->values + column * stride;
            STORE(array + lifting, LOAD(array));
            places[e] = (int32_t)(column * stride + begin);
            ends[e] = (int32_t)(column * stride + lifting);
            state->turn[column] = shift >= next ? shift - next : shift + lifting - next;
        }
        int8_t *held = buffer, *later = buffer + LDPC_DEGREE * LANES;
        NAME(incoming) sum = {top, top, LOAD(target)};
        for (size_t e = 0; e < degree; e++)
            NAME(gather)(&sum, NAME(fetch)(state->values + places[e], messages + e * LANES, held + e * LANES, fresh));
        target += LANES;
        for (uint32_t lane = LANES;; lane += LANES, target += LANES) {
            const NAME(outgoing) out = NAME(answer)(&sum, table, &unsatisfied);
            NAME(advance)(places, ends, degree, (int32_t)lifting);
            if (lane == lifting) {
                for (size_t e = 0; e < degree; e++)
                    NAME(spread)(&out, held + e * LANES, messages + e * LANES, state->values + (uint32_t)places[e] / LANES * LANES);
                messages += degree * LANES;
                break;
            }
            int8_t *further = messages + degree * LANES, *before = held;
            sum = (NAME(incoming)){top, top, LOAD(target)};
#pragma GCC unroll 2
            for (size_t e = 0; e < degree; e++) {
                const uint32_t place = (uint32_t)places[e];
                const V in = NAME(fetch)(state->values + place, further + e * LANES, later + e * LANES, fresh);
                NAME(spread)(&out, held + e * LANES, messages + e * LANES, state->values + place / LANES * LANES);
                NAME(gather)(&sum, in);
            }
            messages = further, held = later, later = before;
        }
    }
    return unsatisfied;
}

TARGET size_t NAME(ldpc_iterate)(ldpc_state *state, const uint8_t table[LDPC_TOP + 1]) {
    const size_t unsatisfied = state->fresh ? NAME(layers)(state, table, 1) : NAME(layers)(state, table, 0);
    state->fresh = 0;
    return unsatisfied;
}

TARGET int NAME(ldpc_satisfied)(const ldpc_state *state) {
    const qkdd_ldpc_code *code = state->code;
    const uint32_t lifting = code->lifting, stride = (uint32_t)state->stride;
    for (uint32_t column = 0; column < code->columns; column++) {
        int8_t *array = state->values + column * stride;
        STORE(array + lifting, LOAD(array));
    }
    int32_t places[ROW] = {0}, ends[ROW] = {0};
    const uint8_t *target = state->target;
    for (uint32_t row = 0; row < code->rows; row++) {
        const uint32_t first = code->starts[row];
        const size_t degree = code->starts[row + 1] - first;
        for (size_t e = 0; e < degree; e++) {
            const uint32_t column = code->columns_of[first + e];
            places[e] = (int32_t)(column * stride + ldpc_place(state, column, code->shifts[first + e]));
            ends[e] = (int32_t)(column * stride + lifting);
        }
        for (uint32_t lane = 0; lane < lifting; lane += LANES, target += LANES) {
            V sign = LOAD(target);
            for (size_t e = 0; e < degree; e++) sign = XOR(sign, LOAD(state->values + places[e]));
            if (NEGATIVE(sign)) return 0;
            NAME(advance)(places, ends, degree, (int32_t)lifting);
        }
    }
    return 1;
}

#undef ROW
#undef TARGET
#undef NAME
#undef V
#undef LANES
#undef LOAD
#undef STORE
#undef ONE
#undef XOR
#undef SUBS
#undef ADDS
#undef SIZE
#undef MIN
#undef MAX
#undef LOOKUP
#undef NEGATIVE
#undef SIGNED
#undef PICK
