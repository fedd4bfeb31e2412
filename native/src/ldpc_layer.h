/* SPDX-License-Identifier: Apache-2.0
 * Layered min-sum on one vector of lanes along the lifting. Included once a variant, with: V, LANES, LOAD (unaligned), STORE (aligned),
 * ONE (a byte in every lane), XOR, SUBS, ADDS (saturating), SIZE (magnitude, at most LDPC_TOP), MIN, MAX (bytes up to LDPC_TOP),
 * LOOKUP, NEGATIVE (count of negative lanes), NAME, TARGET, and the messages, of slot = edge · vectors of a column + vector:
 * MESSAGE (slot), OUT (slot, in, least, usual, other, sign): the new message, which is kept.
 *
 * Two equal smallest magnitudes make the second equal to the first, so "magnitude is the smallest" needs no index. */

TARGET size_t NAME(ldpc_iterate)(ldpc_state *state, const uint8_t table[LDPC_TOP + 1]) {
    const qkdd_ldpc_code *code = state->code;
    const size_t lifting = code->lifting, vectors = lifting / LANES;
    int8_t held[LDPC_DEGREE * LANES] __attribute__((aligned(64)));
    const int8_t *from[LDPC_DEGREE];
    int8_t *to[LDPC_DEGREE];
    size_t wrap[LDPC_DEGREE];
    size_t unsatisfied = 0;
    for (uint32_t row = 0; row < code->rows; row++) {
        const uint32_t first = code->starts[row], degree = code->starts[row + 1] - first;
        for (uint32_t e = 0; e < degree; e++) {
            const uint32_t column = code->columns_of[first + e], shift = code->shifts[first + e], turn = state->turn[column];
            const size_t begin = shift >= turn ? shift - turn : shift + lifting - turn;
            from[e] = ldpc_array(state, column, state->current[column]) + begin;
            to[e] = ldpc_array(state, column, !state->current[column]);
            wrap[e] = lifting - begin;
            state->turn[column] = shift;
            state->current[column] = !state->current[column];
        }
        for (size_t lane = 0; lane < lifting; lane += LANES) {
            const size_t slot = first * vectors + lane / LANES * degree;
            V least = ONE(LDPC_TOP), second = ONE(LDPC_TOP), sign = LOAD(state->target + row * lifting + lane);
            for (uint32_t e = 0; e < degree; e++) {
                const int8_t *value = from[e] + lane - (lane >= wrap[e] ? lifting : 0);
                V in = SUBS(LOAD(value), MESSAGE(slot + e));
                STORE(held + e * LANES, in);
                V size = SIZE(in);
                second = MIN(second, MAX(least, size));
                least = MIN(least, size);
                sign = XOR(sign, in);
            }
            unsatisfied += NEGATIVE(sign);
            const V usual = LOOKUP(least, table), other = LOOKUP(second, table);
            for (uint32_t e = 0; e < degree; e++) {
                V in = LOAD(held + e * LANES);
                STORE(to[e] + lane, ADDS(in, OUT(slot + e, in, least, usual, other, sign)));
            }
        }
        for (uint32_t e = 0; e < degree; e++) memcpy(to[e] + lifting, to[e], LDPC_PAD);
    }
    return unsatisfied;
}

TARGET int NAME(ldpc_satisfied)(const ldpc_state *state) {
    const qkdd_ldpc_code *code = state->code;
    const size_t lifting = code->lifting;
    for (uint32_t row = 0; row < code->rows; row++)
        for (size_t lane = 0; lane < lifting; lane += LANES) {
            V sign = LOAD(state->target + row * lifting + lane);
            for (uint32_t e = code->starts[row]; e < code->starts[row + 1]; e++) {
                const uint32_t column = code->columns_of[e], turn = state->turn[column];
                size_t at = lane + code->shifts[e] + lifting - turn;
                at -= at >= lifting ? lifting : 0;
                at -= at >= lifting ? lifting : 0;
                sign = XOR(sign, LOAD(ldpc_array(state, column, state->current[column]) + at));
            }
            if (NEGATIVE(sign)) return 0;
        }
    return 1;
}

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
#undef MESSAGE
#undef OUT
