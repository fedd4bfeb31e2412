/* SPDX-License-Identifier: Apache-2.0
 * The one global of the kernels: the table in use. */
#include "internal.h"

static qkdd_kernel_table chosen;
static const qkdd_kernel_table *table = &qkdd_portable_table;
static qkdd_variant current = QKDD_PORTABLE;

const qkdd_kernel_table *qkdd_kernels(void) { return table; }

qkdd_variant qkdd_variant_current(void) { return current; }

#if defined(__x86_64__)
#include <cpuid.h>

/* Where it is missing, its code is another instruction. Not every compiler's __builtin_cpu_supports knows it. */
static int has_lzcnt(void) {
    unsigned a, b, c = 0, d;
    return __get_cpuid(0x80000001u, &a, &b, &c, &d) && c & bit_LZCNT;
}

static int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt") && has_lzcnt() && __builtin_cpu_supports("sse4.2") &&
           __builtin_cpu_supports("pclmul");
}

static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static void choose(qkdd_variant variant) {
    if (variant >= QKDD_AVX2) {
        chosen.crc32c = qkdd_avx2_crc32c;
        chosen.ghash_blocks = qkdd_avx2_ghash_blocks;
        chosen.polyval_multiply = qkdd_avx2_polyval_multiply;
        chosen.toeplitz_square = qkdd_avx2_square;
        chosen.middle_product = qkdd_avx2_middle_product;
        chosen.butterfly = 9.2;
        chosen.pack_words = qkdd_avx2_pack_words;
        chosen.unpack_words = qkdd_avx2_unpack_words;
        chosen.sorted = qkdd_avx2_sorted;
        chosen.map_times = qkdd_avx2_map_times;
        chosen.fold_cells = qkdd_avx2_fold_cells;
        chosen.slot_cells = qkdd_avx2_slot_cells;
        chosen.transpose = qkdd_avx2_transpose;
        chosen.pair_sums = qkdd_avx2_pair_sums;
        chosen.any_above = qkdd_avx2_any_above;
        chosen.add_rows = qkdd_avx2_add_rows;
        chosen.best_twin = qkdd_avx2_best_twin;
        chosen.correlate = qkdd_avx2_correlate;
    }
    if (variant >= QKDD_AVX512) {
        chosen.pack_words = qkdd_avx512_pack_words;
        chosen.unpack_words = qkdd_avx512_unpack_words;
        chosen.sorted = qkdd_avx512_sorted;
        chosen.map_times = qkdd_avx512_map_times;
        chosen.fold_cells = qkdd_avx512_fold_cells;
        chosen.slot_cells = qkdd_avx512_slot_cells;
        chosen.transpose = qkdd_avx512_transpose;
        chosen.pair_sums = qkdd_avx512_pair_sums;
        chosen.any_above = qkdd_avx512_any_above;
        chosen.add_rows = qkdd_avx512_add_rows;
        chosen.best_twin = qkdd_avx512_best_twin;
        chosen.correlate = qkdd_avx512_correlate;
    }
    /* the first processors with AVX-512 multiply 128 bits at a time only */
    if (variant >= QKDD_AVX512 && __builtin_cpu_supports("vpclmulqdq")) {
        chosen.ghash_blocks = qkdd_avx512_ghash_blocks;
        chosen.toeplitz_square = qkdd_avx512_square;
        chosen.middle_product = qkdd_avx512_middle_product;
        chosen.butterfly = 9.2;
        chosen.leaf_first = 16;
        chosen.leaf_last = 24;
        chosen.leaf_step = 8;
    }
}

int qkdd_variant_available(qkdd_variant variant) {
    __builtin_cpu_init();
    return variant == QKDD_PORTABLE || (variant == QKDD_AVX2 && has_avx2()) || (variant == QKDD_AVX512 && has_avx512());
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

int qkdd_variant_available(qkdd_variant variant) {
    const unsigned long wanted = HWCAP_PMULL | HWCAP_CRC32;
    return variant == QKDD_PORTABLE || (variant == QKDD_NEON && (getauxval(AT_HWCAP) & wanted) == wanted);
}

static void choose(qkdd_variant variant) {
    if (variant != QKDD_NEON) return;
    chosen.crc32c = qkdd_neon_crc32c;
    chosen.ghash_blocks = qkdd_neon_ghash_blocks;
    chosen.polyval_multiply = qkdd_neon_polyval_multiply;
    chosen.toeplitz_square = qkdd_neon_square;
    chosen.middle_product = qkdd_neon_middle_product;
    chosen.butterfly = 9.2;
}
#else
static void choose(qkdd_variant variant) { (void)variant; }

int qkdd_variant_available(qkdd_variant variant) { return variant == QKDD_PORTABLE; }
#endif

qkdd_variant qkdd_variant_best(void) {
    static const qkdd_variant order[] = {QKDD_NEON, QKDD_AVX512, QKDD_AVX2};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (qkdd_variant_available(order[i])) return order[i];
    return QKDD_PORTABLE;
}

qkdd_status qkdd_variant_select(qkdd_variant variant) {
    if ((int)variant < 0 || variant >= QKDD_VARIANTS) return QKDD_BAD_ARGUMENT;
    if (!qkdd_variant_available(variant)) return QKDD_UNSUPPORTED;
    chosen = qkdd_portable_table;
    choose(variant);
    table = &chosen;
    current = variant;
    return QKDD_OK;
}
