/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target of one node of Cascade whose peer says anything: libFuzzer's entry point; fuzz/replay.c drives it without libFuzzer. */
#include <stdlib.h>
#include <string.h>

#include "qkdd_kernels.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 8) return 0;
    /* bits, frame, slots, error rate and role, then a message after the other, each with a byte that may spoil its size */
    size_t n = 1 + (data[0] | (size_t)(data[1] & 15) << 8), frame = 64 + 8 * (size_t)data[2], slots = 1 + data[3] % 8, asked = 0;
    double rate = (1 + data[4] % 128) / 256.0;
    int corrects = data[5] & 1;
    data += 6;
    size -= 6;
    size_t words = qkdd_cascade_workspace(n, frame, slots, rate), bytes = (n + 7) / 8;
    if (words == 0 || words > 1 << 20) return 0;
    uint64_t *work = calloc(words, 8), errors;
    uint8_t *packed = calloc(bytes, 1), seed[32] = {1};
    if (qkdd_cascade_open(work, words, packed, n, seed, frame, slots, rate, corrects) != QKDD_OK) abort();
    size_t largest = qkdd_cascade_message(work);
    uint8_t *mine = malloc(largest + 1);
    qkdd_status status = qkdd_cascade_step(work, NULL, 0, mine, &asked);
    while (status == QKDD_OK && asked > 0 && size > 1) {
        if (asked > largest * 8) abort();
        size_t wanted = (asked + 7) / 8 + (data[0] == 255);
        data++;
        size--;
        uint8_t *theirs = calloc(wanted + 1, 1);
        size_t part = wanted < size ? wanted : size;
        memcpy(theirs, data, part);
        if (asked % 8 && wanted == (asked + 7) / 8) theirs[wanted - 1] &= (uint8_t)(0xFF << (8 - asked % 8));
        data += part;
        size -= part;
        status = qkdd_cascade_step(work, theirs, wanted, mine, &asked);
        free(theirs);
    }
    qkdd_cascade_close(work, packed, &errors);
    free(work);
    free(packed);
    free(mine);
    return 0;
}
