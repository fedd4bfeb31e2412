/* SPDX-License-Identifier: Apache-2.0
 * Packing and unpacking of bits by multiplication: eight bytes of value 0 or 1 are one word; a multiplier whose set bits are
 * 9 (or 7) apart moves each of them to its place in the top byte, and no two products meet. */
#include "internal.h"

#define LOW_BITS 0x0101010101010101u
#define MSB_FIRST 0x8040201008040201u /* sum of 2^(9 i), i = 0..7 */
#define LSB_FIRST 0x0102040810204080u /* sum of 2^(7 i), i = 1..8 */

qkdd_status qkdd_pack_bits(const uint8_t *bits, size_t count, uint8_t *packed) {
    uint64_t seen = 0;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        uint64_t v = load_le64(bits + i);
        seen |= v;
        packed[i / 8] = (uint8_t)((v * MSB_FIRST) >> 56);
    }
    if (i < count) {
        uint8_t tail[8] = {0};
        memcpy(tail, bits + i, count - i);
        uint64_t v = load_le64(tail);
        seen |= v;
        packed[i / 8] = (uint8_t)((v * MSB_FIRST) >> 56);
    }
    if (seen & ~(uint64_t)LOW_BITS) {
        memset(packed, 0, (count + 7) / 8);
        return QKDD_MALFORMED;
    }
    return QKDD_OK;
}

qkdd_status qkdd_unpack_bits(const uint8_t *packed, size_t count, uint8_t *bits) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) store_le64(bits + i, ((packed[i / 8] * (uint64_t)MSB_FIRST) >> 7) & LOW_BITS);
    if (i < count) {
        uint8_t tail[8];
        uint8_t last = packed[i / 8];
        if (last & (0xFFu >> (count - i))) {
            memset(bits, 0, count);
            return QKDD_MALFORMED;
        }
        store_le64(tail, ((last * (uint64_t)MSB_FIRST) >> 7) & LOW_BITS);
        memcpy(bits + i, tail, count - i);
    }
    return QKDD_OK;
}

/* 64 bytes -> one word, first byte in bit 0. */
static inline uint64_t pack_word(const uint8_t *bits, uint64_t *seen) {
    uint64_t word = 0;
    for (int k = 0; k < 8; k++) {
        uint64_t v = load_le64(bits + 8 * k);
        *seen |= v;
        word |= ((v * LSB_FIRST) >> 56) << (8 * k);
    }
    return word;
}

uint64_t qkdd_pack_words(const uint8_t *bits, size_t count, uint64_t *words, size_t offset) {
    uint64_t seen = 0;
    uint64_t *out = words + offset / 64;
    unsigned shift = offset % 64;
    size_t i = 0;
    for (; i + 64 <= count; i += 64, out++) {
        uint64_t word = pack_word(bits + i, &seen);
        out[0] |= word << shift;
        if (shift) out[1] |= word >> (64 - shift);
    }
    if (i < count) {
        uint8_t tail[64] = {0};
        memcpy(tail, bits + i, count - i);
        uint64_t word = pack_word(tail, &seen);
        out[0] |= word << shift;
        if (shift && count - i + shift > 64) out[1] |= word >> (64 - shift);
        wipe(tail, sizeof tail);
    }
    seen |= seen >> 32;
    seen |= seen >> 16;
    seen |= seen >> 8;
    return seen & 0xFF;
}

void qkdd_unpack_words(const uint64_t *words, size_t count, uint8_t *bits) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        uint64_t byte = (words[i / 64] >> (i % 64)) & 0xFF;
        /* reverse the byte's order against MSB_FIRST by spreading with the other multiplier */
        store_le64(bits + i, (((byte & 0x7F) * 0x0002040810204081u) & LOW_BITS) | ((byte >> 7) << 56));
    }
    for (; i < count; i++) bits[i] = (words[i / 64] >> (i % 64)) & 1;
}
