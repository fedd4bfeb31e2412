/* SPDX-License-Identifier: Apache-2.0
 * What the LDPC kernel shares with its variants. */
#ifndef QKDD_LDPC_H
#define QKDD_LDPC_H

#include "internal.h"

#define LDPC_DEGREE 160 /* most edges of a row of circulants */
#define LDPC_PAD 64     /* the widest vector */
#define LDPC_TOP 63     /* largest magnitude of a message */

#define LDPC_MOST 8192  /* largest lifting */

typedef struct {
    uint16_t lanes, first;
} ldpc_split;

/* A decoder in its workspace. In all variants but VBMI a column of circulants is an array of lifting values, whose place i holds the value of
 * bit (i + turn) mod lifting, and room for a copy of its first vector behind it, so that a vector may be read across the end. */
typedef struct {
    const qkdd_ldpc_code *code;
    int8_t *values;    /* [columns][stride]; VBMI: [columns][lifting] */
    int8_t *messages;  /* [edges][lifting] */
    uint32_t *turn;    /* [columns]; not VBMI */
    size_t stride;     /* of an array */
    uint8_t *target;   /* [rows][lifting]: 0x80 where the parity must be odd */
    int fresh;         /* no message was sent yet */
    /* VBMI only, see ldpc_vbmi.c */
    uint8_t *rotations; /* [64][64] lanes */
    uint64_t *parities; /* [rows][vectors]: bits of the syndrome */
    uint64_t *signs;    /* [columns][2][vectors] */
    uint8_t *current;   /* [columns]: 1 if the signs are packed */
    uint32_t *places;   /* [rows][vectors][edges of the row] */
    ldpc_split *splits; /* [edges]: shifts in lanes and vectors */
    ldpc_split *turns;  /* [columns] */
} ldpc_state;

/* Where in its array the bit `shift` of a column is. */
static inline uint32_t ldpc_place(const ldpc_state *state, uint32_t column, uint32_t shift) {
    const uint32_t turn = state->turn[column];
    return shift >= turn ? shift - turn : shift + state->code->lifting - turn;
}

/* Lays the state out in memory (aligned to LDPC_PAD) and fills it. */
typedef void ldpc_open(ldpc_state *state, int8_t *memory, const uint8_t *syndrome, const int8_t *prior);
/* One layered iteration; returns the number of checks that the incoming messages did not satisfy. */
typedef size_t ldpc_iterate(ldpc_state *state, const uint8_t table[LDPC_TOP + 1]);
/* 1 if the signs of the values satisfy every check. */
typedef int ldpc_satisfied(const ldpc_state *state);
/* errors[columns * lifting]: where values are negative if they were found, else zero. */
typedef void ldpc_close(const ldpc_state *state, int found, uint8_t *errors);

ldpc_iterate qkdd_portable_ldpc_iterate;
ldpc_satisfied qkdd_portable_ldpc_satisfied;
#if defined(__x86_64__)
ldpc_iterate qkdd_avx2_ldpc_iterate;
ldpc_satisfied qkdd_avx2_ldpc_satisfied;
size_t qkdd_vbmi_ldpc_bytes(const qkdd_ldpc_code *code);
ldpc_open qkdd_vbmi_ldpc_open;
ldpc_iterate qkdd_vbmi_ldpc_iterate;
ldpc_satisfied qkdd_vbmi_ldpc_satisfied;
ldpc_close qkdd_vbmi_ldpc_close;
#elif defined(__aarch64__)
ldpc_iterate qkdd_neon_ldpc_iterate;
ldpc_satisfied qkdd_neon_ldpc_satisfied;
#endif

#endif
