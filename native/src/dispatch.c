/* SPDX-License-Identifier: Apache-2.0
 * The one global of the kernels: the table in use. */
#include "internal.h"

static const qkdd_kernel_table *table = &qkdd_portable_table;
static qkdd_variant current = QKDD_PORTABLE;

const qkdd_kernel_table *qkdd_kernels(void) { return table; }

qkdd_variant qkdd_variant_current(void) { return current; }

qkdd_variant qkdd_variant_best(void) { return QKDD_PORTABLE; }

qkdd_status qkdd_variant_select(qkdd_variant variant) {
    if ((int)variant < 0 || variant >= QKDD_VARIANTS) return QKDD_BAD_ARGUMENT;
    if (variant > qkdd_variant_best()) return QKDD_UNSUPPORTED;
    current = variant;
    return QKDD_OK;
}
