/* SPDX-License-Identifier: Apache-2.0
 * Twiddle factors of the additive transform (fft.h). */
#include "internal.h"

/* Cantor basis b_1 .. b_31 of GF(2)[z] / (z^128 + z^7 + z^2 + z + 1), low word first: b_127 = z^121 has trace 1,
 * b_i = b_{i+1}^2 + b_{i+1}, and b_0 comes out as 1. */
static const uint64_t basis[31][2] = {
    {0x676aac9fa4b20b09u, 0x295ac0b1f4731af9u},
    {0x987a355cbf0c842bu, 0x8b49849339334e30u},
    {0xcbc26e38bdbd6c62u, 0xf210539fd8dd2772u},
    {0x66141a437041312eu, 0xd3bc203dc59b8569u},
    {0xd44c32e60a17dee0u, 0x386656093df3f038u},
    {0x26cb812e5dc6f8a4u, 0x44020450758a0366u},
    {0xb0c656708878aff8u, 0x01a68209a6823702u},
    {0x1c02b2ae09edf906u, 0x64a556f21ec15a4au},
    {0xe5b63846995a737au, 0x40955c19c531ec30u},
    {0x6940ed26a1cf3fc7u, 0xcfd6717f7aed2805u},
    {0x1175a0720bb39f24u, 0xda0b473d44048f3eu},
    {0x6e9d69de871dadd3u, 0xbeda12b0d57a8543u},
    {0x6cdd86b1d52ac08du, 0x5577a2294b70fd0du},
    {0x014933a9ce593a8au, 0xcef199ce281b22e2u},
    {0x86e1853fb495d92au, 0x5827db0d7c510e8au},
    {0xe7f33a358f56274cu, 0x60301508f6e22a70u},
    {0x4b37b647bfa03a78u, 0xc2637e8c737bd3dfu},
    {0x989ee494551317bcu, 0x5d14b08b7c4a719eu},
    {0xcd47131d2502686fu, 0x61e92ddb4851649cu},
    {0x509509059f4fdbccu, 0xc2dc7270a1068faeu},
    {0xf912918786a35593u, 0x74c4cb2d735efa86u},
    {0xd594c2a9ec639bf8u, 0x0c6fcd3fba6f0ecfu},
    {0xfd71c84072b6e7a3u, 0xaeb183982895780du},
    {0x41d807b3f55964f4u, 0x187a1a048c5c3559u},
    {0x93cb4356431f4141u, 0xca82887c7d93e6f7u},
    {0x4f45ef7c6c6c9a9cu, 0xf344e03685c462eau},
    {0x73254cb0c98417ebu, 0xb78b077c9f75e57bu},
    {0xb0cb080e1e127312u, 0xfa5f8b337c6c7cbeu},
    {0xdb68541eeee9543cu, 0x301a3badd50488f4u},
    {0x122bbc37147be197u, 0x25c08fc97b561cacu},
    {0xe013f13aeebe83f8u, 0xc3537b5de604c7f4u},
};

/* Entry c of row r, 256 entries a row: w = phi(2 * c * 256^r) and w * z^64, two words each. */
void qkdd_fft_twiddles(uint64_t *table) {
    memset(table, 0, QKDD_FFT_TABLE * sizeof *table);
    for (size_t bit = 0; bit < 31; bit++) {
        uint64_t low = basis[bit][0], high = basis[bit][1];
        uint64_t entry[4] = {low, high, high ^ (high << 1) ^ (high << 2) ^ (high << 7),
                             low ^ (high >> 63) ^ (high >> 62) ^ (high >> 57)};
        uint64_t *row = table + 1024 * (bit / 8);
        size_t place = (size_t)1 << (bit % 8);
        for (size_t c = 0; c < place; c++)
            for (size_t i = 0; i < 4; i++) row[4 * (place + c) + i] = row[4 * c + i] ^ entry[i];
    }
}
