/* SPDX-License-Identifier: Apache-2.0
 * Syndromes and decoding of quasi-cyclic LDPC codes: layered min-sum (Hocevar, SIPS 2004; Chen et al., IEEE Trans. Commun. 53
 * (2005) 1288) on int8_t, lanes along the lifting. The decoder looks for the error pattern whose syndrome is given. */
#include "ldpc.h"

#define COLUMNS_MOST 4096
#define ROWS_MOST 4096

static int sound(const qkdd_ldpc_code *code) {
    if (code->lifting < 64 || code->lifting > LDPC_MOST || code->lifting % 64) return 0;
    if (code->columns < 1 || code->columns > COLUMNS_MOST || code->rows < 1 || code->rows > ROWS_MOST) return 0;
    if (code->starts[0] != 0) return 0;
    for (uint32_t row = 0; row < code->rows; row++) {
        uint32_t first = code->starts[row], last = code->starts[row + 1];
        if (last <= first || last - first > LDPC_DEGREE) return 0;
        /* ascending columns: no column twice in a row, on which the layers rely */
        for (uint32_t e = first; e < last; e++)
            if (code->columns_of[e] >= code->columns || code->shifts[e] >= code->lifting ||
                (e > first && code->columns_of[e] <= code->columns_of[e - 1]))
                return 0;
    }
    return 1;
}

static size_t stride_of(const qkdd_ldpc_code *code) { return code->lifting + LDPC_PAD; }

static size_t message_bytes(const qkdd_ldpc_code *code) { return (size_t)code->starts[code->rows] * code->lifting; }

static size_t layered_bytes(const qkdd_ldpc_code *code) {
    return code->columns * (stride_of(code) + 4) + message_bytes(code) + (size_t)code->rows * code->lifting;
}

static void layered_open(ldpc_state *state, int8_t *memory, const uint8_t *syndrome, const int8_t *prior) {
    const qkdd_ldpc_code *code = state->code;
    const size_t z = code->lifting, checks = code->rows * z;
    state->stride = stride_of(code);
    state->fresh = 1;
    state->values = memory, memory += code->columns * state->stride;
    state->messages = memory, memory += message_bytes(code);
    state->target = (uint8_t *)memory, memory += checks;
    state->turn = (uint32_t *)(void *)memory;
    memset(state->turn, 0, 4 * code->columns);
    for (size_t column = 0; column < code->columns; column++)
        memcpy(state->values + column * state->stride, prior + column * z, z);
    for (size_t i = 0; i < checks; i++) state->target[i] = (uint8_t)(syndrome[i] << 7);
}

static void layered_close(const ldpc_state *state, int found, uint8_t *errors) {
    const size_t z = state->code->lifting;
    for (size_t column = 0; column < state->code->columns; column++) {
        const int8_t *value = state->values + column * state->stride;
        const size_t turn = state->turn[column];
        uint8_t *out = errors + column * z;
        for (size_t i = 0; i < z - turn; i++) out[turn + i] = found && value[i] < 0;
        for (size_t i = z - turn; i < z; i++) out[turn + i - z] = found && value[i] < 0;
    }
}

/* How the variant in use decodes. */
typedef struct {
    size_t (*bytes)(const qkdd_ldpc_code *code);
    ldpc_open *open;
    ldpc_iterate *iterate;
    ldpc_satisfied *satisfied;
    ldpc_close *close;
} decoder;

static decoder decoder_in_use(void) {
#if defined(__x86_64__)
    /* the first processors with AVX-512 have no VBMI */
    if (qkdd_variant_current() >= QKDD_AVX512 && __builtin_cpu_supports("avx512vbmi"))
        return (decoder){qkdd_vbmi_ldpc_bytes, qkdd_vbmi_ldpc_open, qkdd_vbmi_ldpc_iterate, qkdd_vbmi_ldpc_satisfied,
                         qkdd_vbmi_ldpc_close};
    if (qkdd_variant_current() >= QKDD_AVX2)
        return (decoder){layered_bytes, layered_open, qkdd_avx2_ldpc_iterate, qkdd_avx2_ldpc_satisfied, layered_close};
#elif defined(__aarch64__)
    if (qkdd_variant_current() == QKDD_NEON)
        return (decoder){layered_bytes, layered_open, qkdd_neon_ldpc_iterate, qkdd_neon_ldpc_satisfied, layered_close};
#endif
    return (decoder){layered_bytes, layered_open, qkdd_portable_ldpc_iterate, qkdd_portable_ldpc_satisfied, layered_close};
}

qkdd_status qkdd_ldpc_workspace(const qkdd_ldpc_code *code, size_t *words) {
    if (!sound(code)) return QKDD_BAD_ARGUMENT;
    *words = (decoder_in_use().bytes(code) + 2 * LDPC_PAD) / 8;
    return QKDD_OK;
}

qkdd_status qkdd_ldpc_syndrome(const qkdd_ldpc_code *code, const uint8_t *bits, uint8_t *syndrome) {
    if (!sound(code)) return QKDD_BAD_ARGUMENT;
    const size_t z = code->lifting;
    uint8_t all = 0;
    for (size_t i = 0; i < code->columns * z; i++) all |= bits[i];
    memset(syndrome, 0, code->rows * z);
    if (all > 1) return QKDD_MALFORMED;
    for (uint32_t row = 0; row < code->rows; row++) {
        uint8_t *out = syndrome + row * z;
        for (uint32_t e = code->starts[row]; e < code->starts[row + 1]; e++) {
            const uint8_t *in = bits + code->columns_of[e] * z;
            const size_t shift = code->shifts[e];
            for (size_t i = 0; i < z - shift; i++) out[i] ^= in[i + shift];
            for (size_t i = 0; i < shift; i++) out[z - shift + i] ^= in[i];
        }
    }
    return QKDD_OK;
}

/* The table for this share of unsatisfied checks: the first stage whose limit (in 2^-16) the share reaches, else the last. */
static const uint8_t *stage(const uint8_t *tables, const uint32_t *limits, size_t stages, size_t unsatisfied, size_t checks) {
    size_t share = unsatisfied * 65536 / checks, i = 0;
    while (i + 1 < stages && share < limits[i]) i++;
    return tables + i * (LDPC_TOP + 1);
}

qkdd_status qkdd_ldpc_decode(const qkdd_ldpc_code *code, const uint8_t *syndrome, const int8_t *prior, const uint8_t *tables,
                             const uint32_t *limits, size_t stages, uint32_t iterations, uint64_t *workspace, size_t words,
                             uint8_t *errors, uint32_t *used) {
    size_t needed;
    qkdd_status status = qkdd_ldpc_workspace(code, &needed);
    if (status != QKDD_OK) return status;
    if (words < needed) return QKDD_NO_SPACE;
    if (stages < 1) return QKDD_BAD_ARGUMENT;
    const size_t z = code->lifting, checks = code->rows * z, size = code->columns * z;
    for (size_t i = 0; i < stages * (LDPC_TOP + 1); i++)
        if (tables[i] > LDPC_TOP) return QKDD_BAD_ARGUMENT;
    uint8_t wrong = 0, all = 0; /* gathered, so that the loops run in vectors */
    for (size_t i = 0; i < size; i++) wrong |= prior[i] == INT8_MIN;
    if (wrong) return QKDD_BAD_ARGUMENT;
    uint32_t sum = 0;
    for (size_t i = 0; i < checks; i++) all |= syndrome[i];
    for (size_t i = 0; i < checks; i++) sum += syndrome[i];
    if (all > 1) return QKDD_MALFORMED;
    size_t unsatisfied = sum;

    const decoder use = decoder_in_use();
    ldpc_state state = {.code = code};
    use.open(&state, (int8_t *)(((uintptr_t)workspace + LDPC_PAD - 1) / LDPC_PAD * LDPC_PAD), syndrome, prior);
    uint32_t done = 0;
    int found = use.satisfied(&state);
    while (!found && done < iterations) {
        unsatisfied = use.iterate(&state, stage(tables, limits, stages, unsatisfied, checks));
        done++;
        found = use.satisfied(&state);
    }
    use.close(&state, found, errors);
    *used = found ? done : iterations + 1;
    wipe(workspace, needed * 8);
    return QKDD_OK;
}

/* The portable variant, in the compiler's own vectors: a comparison gives -1 in the lanes where it holds. */
typedef int8_t lanes16 __attribute__((vector_size(16)));
typedef uint8_t unsigned16 __attribute__((vector_size(16)));

static inline lanes16 load(const void *p) {
    lanes16 a;
    memcpy(&a, p, 16);
    return a;
}
static inline void store(void *p, lanes16 a) { memcpy(p, &a, 16); }
static inline lanes16 one(int8_t value) { return value - (lanes16){0}; }
static inline lanes16 pick(lanes16 mask, lanes16 x, lanes16 y) { return (mask & x) | (~mask & y); }
static inline lanes16 xored(lanes16 a, lanes16 b) { return a ^ b; }
/* Saturating: where both signs of a sum's terms differ from the sum's, it has passed the end on their side. */
static inline lanes16 bounded(lanes16 sum, lanes16 overflow, lanes16 a) {
    return pick(overflow < 0, (a < 0) ^ one(INT8_MAX), sum);
}
static inline lanes16 plus(lanes16 a, lanes16 b) {
    lanes16 sum = (lanes16)((unsigned16)a + (unsigned16)b);
    return bounded(sum, (a ^ sum) & (b ^ sum), a);
}
static inline lanes16 minus(lanes16 a, lanes16 b) {
    lanes16 sum = (lanes16)((unsigned16)a - (unsigned16)b);
    return bounded(sum, (a ^ b) & (a ^ sum), a);
}
static inline lanes16 smaller(lanes16 a, lanes16 b) { return pick(a < b, a, b); }
static inline lanes16 larger(lanes16 a, lanes16 b) { return pick(a < b, b, a); }
static inline lanes16 size_of(lanes16 a) {
    return smaller(larger(a, minus((lanes16){0}, a)), one(LDPC_TOP));
}
static inline lanes16 lookup(lanes16 a, const uint8_t *table) {
    lanes16 out = {0};
    for (int i = 0; i < 16; i++) out[i] = (int8_t)table[a[i]];
    return out;
}
static inline lanes16 with_sign(lanes16 size, lanes16 sign) {
    const lanes16 mask = sign < 0;
    return (size ^ mask) - mask;
}
static inline lanes16 pick_equal(lanes16 a, lanes16 b, lanes16 x, lanes16 y) { return pick(a == b, x, y); }
static inline size_t negative(lanes16 a) {
    size_t count = 0;
    for (int i = 0; i < 16; i++) count += a[i] < 0;
    return count;
}

#define TARGET
#define NAME(x) qkdd_portable_##x
#define V lanes16
#define LANES 16
#define LOAD load
#define STORE store
#define ONE one
#define XOR xored
#define SUBS minus
#define ADDS plus
#define SIZE size_of
#define MIN smaller
#define MAX larger
#define LOOKUP lookup
#define NEGATIVE negative
#define SIGNED with_sign
#define PICK pick_equal
#include "ldpc_layer.h"
