/* SPDX-License-Identifier: Apache-2.0 */
#include "internal.h"

uint32_t qkdd_crc32c(const uint8_t *data, size_t size) { return qkdd_kernels()->crc32c(data, size); }
