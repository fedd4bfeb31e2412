/* SPDX-License-Identifier: Apache-2.0
 * Packing and unpacking of bits by multiplication: eight bytes of value 0 or 1 are one word; a multiplier whose set bits are
 * 9 (or 7) apart moves each of them to its place in the top byte, and no two products meet. */
#include "internal.h"

#define LOW_BITS 0x0101010101010101u
#define LSB_FIRST 0x0102040810204080u /* sum of 2^(7 i), i = 1..8 */

#define CHUNK 64 /* words that are turned at a time */

qkdd_status qkdd_pack_bits(const uint8_t *bits, size_t count, uint8_t *packed) {
    uint64_t words[CHUNK], seen = 0;
    for (size_t done = 0; done < count; done += 64 * CHUNK) {
        size_t some = count - done < 64 * CHUNK ? count - done : 64 * CHUNK;
        seen |= qkdd_pack_words(bits + done, some, words);
        qkdd_packed_from_words(words, some, packed + done / 8);
    }
    wipe(words, sizeof words);
    PUBLIC(seen);
    if (seen > 1) {
        memset(packed, 0, (count + 7) / 8);
        return QKDD_MALFORMED;
    }
    return QKDD_OK;
}

qkdd_status qkdd_unpack_bits(const uint8_t *packed, size_t count, uint8_t *bits) {
    if (count % 8 && packed[count / 8] & (0xFFu >> count % 8)) {
        memset(bits, 0, count);
        return QKDD_MALFORMED;
    }
    uint64_t words[CHUNK];
    for (size_t done = 0; done < count; done += 64 * CHUNK) {
        size_t some = count - done < 64 * CHUNK ? count - done : 64 * CHUNK;
        qkdd_words_from_packed(packed + done / 8, some, words);
        qkdd_unpack_words(words, some, bits + done);
    }
    wipe(words, sizeof words);
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

static uint64_t one_byte(uint64_t seen) {
    seen |= seen >> 32;
    seen |= seen >> 16;
    seen |= seen >> 8;
    return seen & 0xFF;
}

uint64_t qkdd_portable_pack_words(const uint8_t *bits, size_t words, uint64_t *out) {
    uint64_t seen = 0;
    for (size_t i = 0; i < words; i++) out[i] = pack_word(bits + 64 * i, &seen);
    return one_byte(seen);
}

void qkdd_portable_unpack_words(const uint64_t *words, size_t count, uint8_t *bits) {
    for (size_t i = 0; i < 8 * count; i++) {
        uint64_t byte = (words[i / 8] >> (i % 8 * 8)) & 0xFF;
        /* the other multiplier spreads a byte, lowest bit first; its highest bit goes alone */
        store_le64(bits + 8 * i, (((byte & 0x7F) * 0x0002040810204081u) & LOW_BITS) | ((byte >> 7) << 56));
    }
}

uint64_t qkdd_pack_words(const uint8_t *bits, size_t count, uint64_t *words) {
    size_t whole = count / 64;
    uint64_t seen = whole ? qkdd_kernels()->pack_words(bits, whole, words) : 0;
    if (count % 64) {
        uint8_t tail[64] = {0};
        memcpy(tail, bits + 64 * whole, count % 64);
        uint64_t or = 0;
        words[whole] = pack_word(tail, &or);
        seen |= one_byte(or);
        wipe(tail, sizeof tail);
    }
    return seen;
}

void qkdd_unpack_words(const uint64_t *words, size_t count, uint8_t *bits) {
    size_t whole = count / 64;
    if (whole) qkdd_kernels()->unpack_words(words, whole, bits);
    for (size_t i = 64 * whole; i < count; i++) bits[i] = (words[whole] >> (i % 64)) & 1;
}

/* The bits of every byte in the other order; its own inverse. */
static void turn_bytes(uint64_t *words, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t v = words[i];
        v = ((v >> 1) & 0x5555555555555555u) | ((v & 0x5555555555555555u) << 1);
        v = ((v >> 2) & 0x3333333333333333u) | ((v & 0x3333333333333333u) << 2);
        words[i] = ((v >> 4) & 0x0F0F0F0F0F0F0F0Fu) | ((v & 0x0F0F0F0F0F0F0F0Fu) << 4);
    }
}

uint64_t qkdd_words_from_packed(const uint8_t *packed, size_t count, uint64_t *words) {
    size_t bytes = (count + 7) / 8, length = (count + 63) / 64;
    for (size_t i = 0; i < bytes / 8; i++) words[i] = load_le64(packed + 8 * i);
    if (bytes % 8) {
        uint8_t tail[8] = {0};
        memcpy(tail, packed + bytes / 8 * 8, bytes % 8);
        words[length - 1] = load_le64(tail);
        wipe(tail, sizeof tail);
    }
    turn_bytes(words, length);
    return count % 8 ? packed[bytes - 1] & (0xFFu >> count % 8) : 0;
}

void qkdd_packed_from_words(const uint64_t *words, size_t count, uint8_t *packed) {
    size_t bytes = (count + 7) / 8, whole = count / 64;
    for (size_t i = 0; i < whole; i++) {
        uint64_t v = words[i];
        turn_bytes(&v, 1);
        store_le64(packed + 8 * i, v);
    }
    for (size_t i = 8 * whole; i < bytes; i += 8) {
        uint8_t eight[8];
        uint64_t v = words[i / 8];
        if (i / 8 == count / 64) v &= ((uint64_t)1 << count % 64) - 1; /* what lies behind the last bit */
        turn_bytes(&v, 1);
        store_le64(eight, v);
        memcpy(packed + i, eight, bytes - i < 8 ? bytes - i : 8);
        wipe(eight, sizeof eight);
    }
}
