/* SPDX-License-Identifier: Apache-2.0
 * What the LDPC kernel shares with its variants. */
#ifndef QKDD_LDPC_H
#define QKDD_LDPC_H

#include "internal.h"

#define LDPC_DEGREE 160 /* most edges of a row of circulants */
#define LDPC_PAD 64     /* the widest vector */
#define LDPC_TOP 63     /* largest magnitude of a message */

/* A column of circulants has two arrays of lifting values and a copy of the first LDPC_PAD of them behind. One is current: its place
 * i holds the value of bit (i + turn) mod lifting. A layer reads the current array from where its own turn begins, unaligned, and
 * writes the other in its own order, aligned; then that one is current. */
typedef struct {
    const qkdd_ldpc_code *code;
    size_t stride;      /* of an array */
    int8_t *values;     /* [columns][2][stride] */
    uint32_t *turn;     /* [columns] */
    uint8_t *current;   /* [columns]: 0 or 1 */
    int8_t *messages;   /* [edges][lifting] */
    uint8_t *target;    /* [rows][lifting]: 0x80 where the parity must be odd */
} ldpc_state;

static inline int8_t *ldpc_array(const ldpc_state *state, size_t column, int which) {
    return state->values + (2 * column + (size_t)which) * state->stride;
}

/* One layered iteration; returns the number of checks that the incoming messages did not satisfy. */
typedef size_t ldpc_iterate(const ldpc_state *state, const uint8_t table[LDPC_TOP + 1]);
/* 1 if the signs of the values satisfy every check. */
typedef int ldpc_satisfied(const ldpc_state *state);

ldpc_iterate qkdd_portable_ldpc_iterate;
ldpc_satisfied qkdd_portable_ldpc_satisfied;
#if defined(__x86_64__)
ldpc_iterate qkdd_avx2_ldpc_iterate, qkdd_avx512_ldpc_iterate;
ldpc_satisfied qkdd_avx2_ldpc_satisfied, qkdd_avx512_ldpc_satisfied;
#endif

#endif
