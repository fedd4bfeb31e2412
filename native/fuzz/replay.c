/* SPDX-License-Identifier: Apache-2.0
 * Drives a fuzz target without libFuzzer: first the files named on the command line (regressions), then ROUNDS seeded inputs:
 * random bytes, and mutations of the input before (flipped bits, cut, repeated), as FUZZ_ROUNDS says (default 5000). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LARGEST 2048

static uint64_t state = 20240229;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* A copy of the exact size, so that the sanitizer sees a read past the end. */
static void run(const uint8_t *data, size_t size) {
    uint8_t *exact = malloc(size + (size == 0));
    if (exact == NULL) abort();
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static void run_file(const char *path) {
    static uint8_t data[1 << 20];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    run(data, size);
}

int main(int argc, char **argv) {
    uint8_t data[LARGEST];
    size_t size = 0;
    for (int i = 1; i < argc; i++) run_file(argv[i]);
    const char *wanted = getenv("FUZZ_ROUNDS");
    long rounds = wanted ? strtol(wanted, NULL, 10) : 5000;
    for (long i = 0; i < rounds; i++) {
        if (i % 8 == 0) {
            size = draw() % (draw() % 4 ? 64 : LARGEST);
            uint64_t bias = draw() % 3; /* long runs of ones and of zeros are the decoders' corners */
            for (size_t k = 0; k < size; k++)
                data[k] = (uint8_t)(bias == 0 ? draw() : bias == 1 ? draw() | draw() | draw() : draw() & draw() & draw());
        } else if (size > 0) {
            data[draw() % size] ^= (uint8_t)(1u << draw() % 8);
            if (draw() % 4 == 0) size = draw() % (size + 1);
        }
        run(data, size);
    }
    printf("%d files, %ld generated inputs: no failure\n", argc - 1, rounds);
    return 0;
}
