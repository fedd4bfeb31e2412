/* SPDX-License-Identifier: Apache-2.0
 * Lists of small symbols at the entropy of their frequencies: range variant of asymmetric numeral systems (J. Duda,
 * arXiv:1311.2540), one state of 64 bits, renormalised by 32 bits. Layout of a list that is not empty:
 *   alphabet - 1 frequencies of 16 bits (the last is what is missing to 2^14), most significant byte first
 *   the state as the coder left it, 8 bytes, then words of 4 bytes, in the order in which the decoder takes them
 * The coder begins with the state LEAST, so a decoder that ends elsewhere, or not at the end, has read no such list. */
#include "internal.h"

#define SCALE 14u
#define TOTAL (1u << SCALE)
#define LEAST ((uint64_t)1 << 31)
#define STATE 8u
#define WORD 4u

static size_t header(unsigned alphabet) { return 2 * ((size_t)alphabet - 1); }

/* Frequencies of sum TOTAL, at least 1 for what occurs. */
static void frequencies(const size_t *counts, size_t count, unsigned alphabet, uint32_t *frequency) {
    uint32_t sum = 0;
    unsigned most = 0;
    for (unsigned i = 0; i < alphabet; i++) {
        double share = (double)counts[i] / (double)count * TOTAL;
        frequency[i] = counts[i] == 0 ? 0 : share < 1 ? 1 : (uint32_t)share;
        sum += frequency[i];
        if (counts[i] > counts[most]) most = i;
    }
    frequency[most] += TOTAL - sum; /* the most frequent of at most 16 has 2^10 or more: what is rounded up fits into it */
}

size_t qkdd_symbol_bound(size_t count, unsigned alphabet) {
    if (count == 0 || alphabet < 2 || alphabet > QKDD_SYMBOLS) return 0;
    return count > (SIZE_MAX - 64) / 2 ? SIZE_MAX : header(alphabet) + STATE + WORD + 2 * count;
}

qkdd_status qkdd_symbol_encode(const uint8_t *symbols, size_t count, unsigned alphabet, uint8_t *out, size_t capacity,
                               size_t *size) {
    *size = 0;
    if (alphabet < 2 || alphabet > QKDD_SYMBOLS) return QKDD_BAD_ARGUMENT;
    if (count == 0) return QKDD_OK;
    if (capacity < qkdd_symbol_bound(count, alphabet)) return QKDD_NO_SPACE;
    size_t counts[QKDD_SYMBOLS] = {0};
    for (size_t i = 0; i < count; i++) {
        if (symbols[i] >= alphabet) return QKDD_OUT_OF_RANGE;
        counts[symbols[i]]++;
    }
    uint32_t frequency[QKDD_SYMBOLS], first[QKDD_SYMBOLS], sum = 0;
    frequencies(counts, count, alphabet, frequency);
    for (unsigned i = 0; i < alphabet; i++) {
        first[i] = sum;
        sum += frequency[i];
        if (i + 1 < alphabet) {
            out[2 * i] = (uint8_t)(frequency[i] >> 8);
            out[2 * i + 1] = (uint8_t)frequency[i];
        }
    }
    uint64_t x = LEAST;
    size_t at = capacity & ~(size_t)3; /* words are written from the end, then moved to their place */
    for (size_t i = count; i-- > 0;) {
        uint64_t f = frequency[symbols[i]];
        if (x >= ((LEAST >> SCALE) << 32) * f) {
            at -= WORD;
            for (unsigned b = 0; b < WORD; b++) out[at + b] = (uint8_t)(x >> (24 - 8 * b));
            x >>= 32;
        }
        x = ((x / f) << SCALE) + x % f + first[symbols[i]];
    }
    size_t body = (capacity & ~(size_t)3) - at, start = header(alphabet);
    memmove(out + start + STATE, out + at, body);
    store_be64(out + start, x);
    *size = start + STATE + body;
    return QKDD_OK;
}

static qkdd_status decode(const uint8_t *data, size_t size, unsigned alphabet, uint8_t *symbols, size_t count) {
    uint32_t frequency[QKDD_SYMBOLS], first[QKDD_SYMBOLS], sum = 0;
    uint8_t owner[TOTAL];
    size_t at = header(alphabet) + STATE;
    if (size < at) return QKDD_TRUNCATED;
    for (unsigned i = 0; i < alphabet; i++) {
        frequency[i] = i + 1 < alphabet ? (uint32_t)data[2 * i] << 8 | data[2 * i + 1] : TOTAL - sum;
        if (frequency[i] > TOTAL - sum) return QKDD_MALFORMED;
        first[i] = sum;
        memset(owner + sum, (int)i, frequency[i]);
        sum += frequency[i];
    }
    uint64_t x = load_be64(data + header(alphabet));
    if (x < LEAST || x >= LEAST << 32) return QKDD_MALFORMED;
    for (size_t i = 0; i < count; i++) {
        uint32_t low = (uint32_t)x & (TOTAL - 1);
        uint8_t symbol = owner[low];
        symbols[i] = symbol;
        x = frequency[symbol] * (x >> SCALE) + low - first[symbol];
        if (x < LEAST) {
            if (size - at < WORD) return QKDD_TRUNCATED;
            x = x << 32 | (uint64_t)data[at] << 24 | (uint64_t)data[at + 1] << 16 | (uint64_t)data[at + 2] << 8 | data[at + 3];
            at += WORD;
            if (x < LEAST) return QKDD_MALFORMED; /* no coder takes a word out of so small a state */
        }
    }
    return x == LEAST && at == size ? QKDD_OK : QKDD_MALFORMED;
}

qkdd_status qkdd_symbol_decode(const uint8_t *data, size_t size, unsigned alphabet, uint8_t *symbols, size_t count) {
    if (alphabet < 2 || alphabet > QKDD_SYMBOLS) return QKDD_BAD_ARGUMENT;
    if (count == 0) return size == 0 ? QKDD_OK : QKDD_MALFORMED;
    qkdd_status status = decode(data, size, alphabet, symbols, count);
    if (status != QKDD_OK) memset(symbols, 0, count);
    return status;
}
