/* SPDX-License-Identifier: Apache-2.0
 * Layered min-sum on one vector of lanes along the lifting. Included once a variant, with: V, LANES, LOAD, STORE, ONE (a byte in
 * every lane), XOR, SUB, ADD (of values that cannot overflow), ABS, MIN, MAX (bytes below 128), CLIP, LOOKUP, SIGNED (a, s: -a
 * where s is negative), SAME (a, b, x, y: x where a = b, else y), NEGATIVE (count of negative lanes), NAME, TARGET.
 *
 * A vector stored at the beginning of a column or across its end is stored a second time, one lifting away. With at least two
 * vectors in a column it is never both at once; for a lifting of one vector the caller takes a narrower variant.
 * Two equal smallest magnitudes make the second equal to the first, so "magnitude is the smallest" needs no index. */

TARGET static inline size_t NAME(place)(size_t lane, uint32_t shift, size_t lifting) {
    size_t at = lane + shift;
    return at < lifting ? at : at - lifting;
}

TARGET size_t NAME(ldpc_iterate)(const ldpc_state *state, const uint8_t table[LDPC_TOP + 1]) {
    const qkdd_ldpc_code *code = state->code;
    const size_t lifting = code->lifting;
    int8_t held[LDPC_DEGREE * LANES] __attribute__((aligned(64)));
    int8_t *address[LDPC_DEGREE], *mirror[LDPC_DEGREE];
    size_t unsatisfied = 0;
    for (uint32_t row = 0; row < code->rows; row++) {
        const uint32_t first = code->starts[row], degree = code->starts[row + 1] - first;
        for (size_t lane = 0; lane < lifting; lane += LANES) {
            V least = ONE(LDPC_TOP), second = ONE(LDPC_TOP), sign = LOAD(state->target + row * lifting + lane);
            for (uint32_t e = 0; e < degree; e++) {
                size_t at = NAME(place)(lane, code->shifts[first + e], lifting);
                int8_t *value = state->values + code->columns_of[first + e] * state->stride + at;
                int8_t *copy = at < LANES ? value + lifting : value - lifting;
                address[e] = value;
                mirror[e] = at < LANES || at + LANES > lifting ? copy : state->dummy;
                V in = SUB(LOAD(value), LOAD(state->messages + (first + e) * lifting + lane));
                STORE(held + e * LANES, in);
                V size = MIN(ABS(in), ONE(LDPC_TOP));
                second = MIN(second, MAX(least, size));
                least = MIN(least, size);
                sign = XOR(sign, in);
            }
            unsatisfied += NEGATIVE(sign);
            const V usual = LOOKUP(least, table), other = LOOKUP(second, table);
            for (uint32_t e = 0; e < degree; e++) {
                V in = LOAD(held + e * LANES);
                V size = MIN(ABS(in), ONE(LDPC_TOP));
                V out = SIGNED(SAME(size, least, other, usual), XOR(sign, in));
                V value = CLIP(ADD(in, out));
                STORE(state->messages + (first + e) * lifting + lane, out);
                STORE(address[e], value);
                STORE(mirror[e], value);
            }
        }
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
                size_t at = NAME(place)(lane, code->shifts[e], lifting);
                sign = XOR(sign, LOAD(state->values + code->columns_of[e] * state->stride + at));
            }
            if (NEGATIVE(sign)) return 0;
        }
    return 1;
}
