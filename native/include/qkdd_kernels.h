/* SPDX-License-Identifier: Apache-2.0
 * The one public header of the qkdd kernels. Conventions: docs/rooms/native.md. */
#ifndef QKDD_KERNELS_H
#define QKDD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* CDEF BEGIN */
uint32_t qkdd_crc32c(const uint8_t *data, size_t size);
/* CDEF END */

#endif
