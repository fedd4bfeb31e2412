/* SPDX-License-Identifier: Apache-2.0
 * What the LDPC kernel shares with its variants. */
#ifndef QKDD_LDPC_H
#define QKDD_LDPC_H

#include "internal.h"

#define LDPC_DEGREE 160 /* most edges of a row of circulants */
#define LDPC_PAD 64     /* the widest vector */
#define LDPC_TOP 31     /* largest magnitude of a message */
#define LDPC_CLIP 95    /* largest magnitude of a bit's value: a value less a message fits int8_t */

/* Values: one column of circulants takes `stride` bytes: pad, lifting values, a copy of the first, pad. A read of a vector that
 * begins inside the column never wraps. */
typedef struct {
    const qkdd_ldpc_code *code;
    size_t stride;
    int8_t *values;         /* points at the first column's value 0 */
    int8_t *messages;       /* [edges][lifting] */
    uint8_t *target;        /* [rows][lifting]: 0x80 where the parity must be odd */
    int8_t *dummy;          /* a vector that nobody reads */
} ldpc_state;

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
