/* SPDX-License-Identifier: Apache-2.0
 * The one public header of the qkdd kernels. Conventions (docs/rooms/native.md):
 *   - every function that can fail returns a qkdd_status; on failure the caller's output buffers are unchanged or zeroed;
 *   - sizes count elements of the pointed-to type; buffers never overlap; pointers may be unaligned only where they are
 *     uint8_t; a pointer may be anything when its size is 0;
 *   - no kernel allocates; where scratch memory is needed the caller gives it and a `_workspace` function says how much;
 *   - "constant-time" means: control flow and addresses depend on sizes and public arguments, never on the bits named secret.
 * References: NIST SP 800-38D (GHASH), RFC 8452 (POLYVAL), RFC 3720 (CRC-32C), Krawczyk CRYPTO '94 (Toeplitz hashing),
 * Fan & Hasan, IEEE Trans. Comput. 56 (2007) 224 (subquadratic Toeplitz matrix-vector product),
 * Brassard & Salvail, EUROCRYPT '93 (Cascade). */
#ifndef QKDD_KERNELS_H
#define QKDD_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* CDEF BEGIN */
typedef enum {
    QKDD_OK = 0,
    QKDD_BAD_ARGUMENT = 1, /* a size or parameter outside the kernel's domain */
    QKDD_TRUNCATED = 2,    /* the input ends in the middle of a record */
    QKDD_MALFORMED = 3,    /* the input is not of the stated format */
    QKDD_UNSORTED = 4,     /* times must be non-decreasing */
    QKDD_OUT_OF_RANGE = 5, /* a value cannot be represented in the result */
    QKDD_NO_SPACE = 6,     /* output buffer or workspace too small */
    QKDD_UNSUPPORTED = 7   /* this processor cannot run the variant */
} qkdd_status;

/* ---- variants: chosen once at load, the same results from each ---- */
typedef enum { QKDD_PORTABLE = 0, QKDD_AVX2 = 1, QKDD_AVX512 = 2, QKDD_NEON = 3, QKDD_VARIANTS = 4 } qkdd_variant;

/* 1 if this processor can run it. */
int qkdd_variant_available(qkdd_variant variant);
/* The fastest variant that this processor can run. */
qkdd_variant qkdd_variant_best(void);
/* The variant in use. */
qkdd_variant qkdd_variant_current(void);
/* Use `variant` from now on; not while another thread is inside a kernel. */
qkdd_status qkdd_variant_select(qkdd_variant variant);

/* CRC-32C (Castagnoli), RFC 3720 appendix B.4. */
uint32_t qkdd_crc32c(const uint8_t *data, size_t size);

/* ---- bits: one bit a byte <-> packed, most significant bit first. Constant-time in the bits. ---- */
/* packed[(count + 7) / 8]; unused low bits of the last byte are 0. A byte above 1 is QKDD_MALFORMED (packed zeroed). */
qkdd_status qkdd_pack_bits(const uint8_t *bits, size_t count, uint8_t *packed);
/* bits[count] from packed[(count + 7) / 8]; non-zero unused low bits are QKDD_MALFORMED (bits zeroed). */
qkdd_status qkdd_unpack_bits(const uint8_t *packed, size_t count, uint8_t *bits);
/* out[c * out_stride + r] = in[r * in_stride + c] for the rows and columns of in; strides in bytes, at least the row's length. */
qkdd_status qkdd_transpose_bytes(const uint8_t *in, size_t rows, size_t columns, size_t in_stride, uint8_t *out,
                                 size_t out_stride);

/* ---- random subsets: maps and bits packed, most significant bit first, unused bits 0 ---- */
/* Chooses positions 0 .. m - 1 (m below 2^32) in map[(m + 7) / 8] until *missing of them are new or the random numbers (4 bytes
 * each, uniform and independent) are used up; *missing is what is left to choose. All subsets of a size are equally likely. */
qkdd_status qkdd_subset_draw(const uint8_t *random, size_t draws, size_t m, uint8_t *map, size_t *missing);
/* inside[(k + 7) / 8]: the k bits under the map, in their order; outside[(m - k + 7) / 8]: the others. A map of another size than
 * k is QKDD_MALFORMED. Constant-time in the bits. */
qkdd_status qkdd_subset_split(const uint8_t *bits, const uint8_t *map, size_t m, size_t k, uint8_t *inside,
                              uint8_t *outside);

/* A map of k of m positions as gaps, for maps with few positions: a byte for each in their order, how many positions (0 .. 254) lie
 * between it and the one before; 255 stands for 255 positions without any, and more to come. At most k + m / 255 bytes
 * (QKDD_NO_SPACE). unpack sets the positions in a map of zeros and takes exactly this form: another number of positions, bytes
 * behind the last, or one outside 0 .. m - 1 is QKDD_MALFORMED. For public maps. */
qkdd_status qkdd_subset_pack(const uint8_t *map, size_t m, size_t k, uint8_t *out, size_t capacity, size_t *size);
qkdd_status qkdd_subset_unpack(const uint8_t *data, size_t size, size_t m, size_t k, uint8_t *map);

/* counts[256]: how many of the labels[count] have each value, of those with chosen[i] not 0 (all, if chosen is NULL). Table lookups:
 * not constant-time; for labels that are public by then (bases, intensities, detectors). */
qkdd_status qkdd_class_counts(const uint8_t *labels, const uint8_t *chosen, size_t count, uint64_t *counts);

/* ---- time tags ---- */
typedef struct {
    int64_t wraps;        /* times the 27-bit counter has wrapped */
    uint32_t last;        /* its last value, in 2 ns units */
    uint32_t started;     /* 0 until the first record */
    uint64_t voids;       /* records without click and without dummy mark, dropped */
    uint64_t largest_step; /* of the last call: longest step forward between two records, 2 ns units */
} qkdd_tdc1_state;

/* S-Fifteen TDC1, mode "timestamp": bits 31..5 time in 2 ns units, bit 4 dummy, bits 3..0 inputs.
 * times[count], patterns[count] receive the clicks in picoseconds; *clicks and *dummies their numbers.
 * A step back by at most 2^16 units is disorder between inputs, every other step back is a wrap. */
qkdd_status qkdd_decode_tdc1(const uint32_t *words, size_t count, qkdd_tdc1_state *state, int64_t *times,
                             uint8_t *patterns, size_t *clicks, size_t *dummies);

/* S-Fifteen timestamp7, format a1: bits 63..10 time in 1/256 ns, bit 4 dummy, bits 3..0 inputs; one little-endian uint64,
 * or with `swapped` the high 32-bit half first. size must be a multiple of 8; times, patterns, dummies hold size / 8.
 * Zero words (void USB returns) are dropped; *records is the number kept. Times are rounded to the nearest picosecond. */
qkdd_status qkdd_decode_a1(const uint8_t *data, size_t size, int swapped, int64_t *times, uint8_t *patterns,
                           uint8_t *dummies, size_t *records);

/* PicoQuant T2 records, 32 bits: as HydraHarp version 1 (overflow record: 33552000 units), as HydraHarp version 2, TimeHarp 260,
 * MultiHarp, PicoHarp 330 (33554432 units times its count), as PicoHarp 300 (210698240 units). */
typedef enum { QKDD_T2_HYDRAHARP1 = 0, QKDD_T2_HYDRAHARP2 = 1, QKDD_T2_PICOHARP = 2, QKDD_T2_LAYOUTS = 3 } qkdd_t2_layout;

/* The first two times layout: bit 31 special, bits 30..25 channel, bits 24..0 time. A special record of channel 63 is an overflow
 * (version 2: `time` of them, 0 counts as 1), of channel 0 the sync input, of channels 1 to 15 an external marker, others are
 * malformed. PicoHarp: bits 31..28 channel, bits 27..0 time; channel 15 is special: an overflow if time's low 4 bits are 0, else
 * a marker, and channels 5 to 14 are malformed. *overflow is the sum of the overflows so far in units, carried from call to call. channels: 0 sync, then input + 1
 * (PicoHarp: the channel itself). times[count], channels[count]; times in ps = unit_ps * (*overflow + time), 1 <= unit_ps <= 10^6.
 * On failure nothing is carried on. */
qkdd_status qkdd_decode_t2(const uint32_t *words, size_t count, qkdd_t2_layout layout, uint32_t unit_ps, int64_t *overflow,
                           int64_t *times, uint8_t *channels, size_t *clicks, size_t *markers);

/* One row per set bit of each pattern, lowest input first. Call with channels NULL to count the rows. */
qkdd_status qkdd_expand_patterns(const int64_t *times, const uint8_t *patterns, size_t count, int64_t *out_times,
                                 uint8_t *channels, size_t capacity, size_t *rows);

/* Pairs of clicks within the window. b is mapped into a's clock: t + rint(delay + drift * (t - origin)), double arithmetic.
 * Two-pointer rule: of the two heads the earlier one (a on equality) is dropped if it is further than window / 2 from the other
 * head, or if the click after it on its own side is strictly nearer to the other head; otherwise the heads are a pair.
 * Times sorted, |t| <= 2^61; |delay| <= 2^60, |drift| <= 1e-2; 0 <= window <= 2^60. ia, ib hold min(na, nb). */
qkdd_status qkdd_match_coincidences(const int64_t *a, size_t na, const int64_t *b, size_t nb, int64_t window, double delay,
                                    double drift, int64_t origin, uint32_t *ia, uint32_t *ib, size_t *pairs);

/* A mark is what a click says: bit 0 its bit, bits 7 .. 1 its basis; from QKDD_NO_BASIS on it has none and is never kept. */
#define QKDD_NO_BASIS 254
/* qkdd_match_coincidences, then the pairs of equal basis, in one call: ia, ib (both hold min(na, nb)) and the packed bits of both
 * sides, most significant bit first (both hold ceil(min(na, nb) / 64) * 8 bytes; *sifted bits, the rest of the last byte 0).
 * *pairs counts all pairs. */
qkdd_status qkdd_sift_coincidences(const int64_t *a, const uint8_t *a_marks, size_t na, const int64_t *b,
                                   const uint8_t *b_marks, size_t nb, int64_t window, double delay, double drift,
                                   int64_t origin, uint32_t *ia, uint32_t *ib, uint8_t *a_bits, uint8_t *b_bits,
                                   size_t *sifted, size_t *pairs);

/* counts[k] = number of pairs with start + k*bin <= b - a < start + (k+1)*bin; saturates at 2^32 - 1. */
qkdd_status qkdd_delay_histogram(const int64_t *a, size_t na, const int64_t *b, size_t nb, int64_t start, int64_t bin,
                                 size_t bins, uint32_t *counts);

/* For the search of a clock: cell = floor((t - origin) * rate), rate in cells a picosecond (0 < rate <= 1) with the frequency
 * tried in it; of the cells 0 .. cells - 1 (at most 2^51) counts[cell mod fold] += 1, the others are dropped. Double arithmetic.
 * Times sorted, |t| <= 2^61. counts[fold] are exact up to 2^24. */
qkdd_status qkdd_clock_histogram(const int64_t *times, size_t count, int64_t origin, double rate, uint64_t cells, size_t fold,
                                 float *counts);

/* The fullest line of pairs near a candidate. b is mapped into a's clock as by qkdd_match_coincidences. With x = a - mapped b, the
 * differences from -bins/2 * bin to (bins/2 + 2^order) * bin are counted in bins and in 2^order equal segments of the time from
 * b[0] to b[nb - 1], and summed along lines that rise by `slope` bins, 0 .. 2^order - 1, from the first segment to the last.
 * found: the largest sum of two neighbouring bins, its slope, the lower bin at the first segment, and the number of all pairs.
 * More than `most` (below 2^32) pairs are QKDD_OUT_OF_RANGE. 2 <= bins <= 2^20, 1 <= order <= 12, 1 <= bin <= 10^12 ps;
 * b and the differences span at most 2^50 ps. */
typedef struct {
    uint64_t count, slope, place, pairs;
} qkdd_clock_peak_found;

size_t qkdd_clock_peak_workspace(size_t bins, unsigned order); /* in uint32_t; 0: not in the domain */
qkdd_status qkdd_clock_peak(const int64_t *a, size_t na, const int64_t *b, size_t nb, double delay, double drift,
                            int64_t origin, double bin, size_t bins, unsigned order, size_t most, uint32_t *workspace,
                            size_t workspace_size, qkdd_clock_peak_found *found);

/* Correlation of counts modulo x^n + 1, n = 2^order cells, 9 <= order <= 24: lags[p] = sum of b[i + p] a[i] over i < n - p, less that
 * of b[i + p - n] a[i] over the others, in single precision: rounding errors are some 1e-7 of the root of sum a^2 sum b^2. The same
 * on every variant.
 * qkdd_correlation_table: floats of the table of one order, 0 where it is out of range; written where it is not NULL (0 if there is
 * no memory). The spectrum of a is in an order of its own. All arrays but the table hold n floats and do not overlap; *deviation is
 * the root of the mean square of the lags. Aligned to 64 bytes they are faster. */
size_t qkdd_correlation_table(unsigned order, float *table);
qkdd_status qkdd_correlation_spectrum(unsigned order, const float *table, const float *a, float *spectrum);
qkdd_status qkdd_correlate(unsigned order, const float *table, const float *spectrum, const float *b, float *workspace,
                           float *lags, double *deviation);

/* cells[j] = counts[2j - s] + counts[2j + 1 - s] with s = rint(stretch * (2j - middle)): the counts as a clock that is off by
 * `stretch` would have them, less twice the mean of the piece that 2j - s is in. The `pieces` pieces of `length` counts lie side by
 * side from `first` on; cells that do not come from them are 0. counts[count], cells[count / 2], count even; |stretch| <= 1e-2.
 * s is exact but where the product is within rounding of a half: there it may be that of the cell before. */
qkdd_status qkdd_clock_cells(const float *counts, size_t count, size_t first, size_t length, const float *means, size_t pieces,
                             double stretch, double middle, float *cells);

/* Local maxima above `limit` of sign * lags[p] (place p) and of sign * (lags[p] + lags[p + 1]) / sqrt(2) (place p + 1/2), p and
 * p + 1 in first .. last - 1; sign is 1 or -1. QKDD_NO_SPACE if there are more than `capacity`; those found before stay. */
qkdd_status qkdd_highest_lags(const float *lags, size_t first, size_t last, float sign, float limit, size_t capacity,
                              double *places, float *heights, size_t *found);

/* ---- differences of a sorted list, Rice coded (layout in docs/rooms/native.md) ---- */
/* Largest number of bytes that `count` values can take. */
size_t qkdd_gap_bound(size_t count);
qkdd_status qkdd_gap_encode(const int64_t *values, size_t count, uint8_t *out, size_t capacity, size_t *size);
/* values[count]. Anything but the encoding of exactly `count` sorted values is refused and values zeroed. */
qkdd_status qkdd_gap_decode(const uint8_t *data, size_t size, int64_t *values, size_t count);

/* ---- lists of small symbols, coded at the entropy of their frequencies (layout in docs/rooms/native.md) ---- */
#define QKDD_SYMBOLS 16 /* largest alphabet */
/* Bytes that `out` must have for `count` symbols; 0 for an alphabet outside 2 .. QKDD_SYMBOLS. */
size_t qkdd_symbol_bound(size_t count, unsigned alphabet);
/* symbols[count], each below `alphabet`. */
qkdd_status qkdd_symbol_encode(const uint8_t *symbols, size_t count, unsigned alphabet, uint8_t *out, size_t capacity,
                               size_t *size);
/* Anything but an encoding of exactly `count` symbols is refused and `symbols` zeroed. */
qkdd_status qkdd_symbol_decode(const uint8_t *data, size_t size, unsigned alphabet, uint8_t *symbols, size_t count);

/* ---- clicks into the slots of a pulsed transmitter ---- */
/* The clock model and what is open between two calls. A slot's centre is where
 *   slot + (t - origin) * rate + phase
 * is whole; t in ps, rate in slots a ps, |phase| <= 2. A fresh state has open = slot - 1 or less, last = -2^61, zeros else. */
typedef struct {
    int64_t origin, slot;
    double phase, rate;
    int64_t piece_start;   /* the piece that is being measured: its begin, clicks and phasor */
    uint64_t piece_count;
    double cosine, sine;
    int64_t last;          /* the last click */
    int64_t open;          /* the last event's slot, and its detectors while it may still grow (else 0) */
    uint64_t pattern;
    uint64_t clicks, outside, blanked, joined; /* counts since the start: all, out of gate, during dead time, in an event */
} qkdd_slot_state;

/* half_gate: slots on each side of a centre (to 0.5). dead: ps. A piece ends after piece_clicks (16 or more) clicks or
 * piece_ps; its phase error then corrects phase and rate by the gains (0 .. 1), unless its contrast is below `contrast` or
 * within noise. rate_low, rate_high bound the rate. */
typedef struct {
    double half_gate;
    int64_t dead;
    uint64_t piece_clicks;
    int64_t piece_ps;
    double gain_phase, gain_rate, contrast, rate_low, rate_high;
} qkdd_slot_settings;

/* One measured piece: its end, clicks, phase error in slots (model minus pulses: clicks come so much behind the centre),
 * contrast 0 .. 1, rate from here on, and whether the model followed. */
typedef struct {
    int64_t moment;
    uint64_t clicks;
    double error, contrast, rate;
    int64_t followed;
} qkdd_slot_piece;

/* times[count] (sorted, in state->piece_start .. until) and detectors[count] (0 .. 3) of all clicks up to `until`. Events go to
 * slots[capacity], strictly rising over all calls, and patterns[capacity] (bit k: detector k): capacity at least count + 1.
 * An event begins with a click in the gate of a later slot than the last event's, if no click (of any detector, in a gate or
 * not) came less than `dead` before; clicks in the gate of the same slot join it. It is put out when the next begins or its
 * slot is over by `until`. piece_capacity: at least (clicks of the open piece + count) / piece_clicks + time / piece_ps + 2. */
qkdd_status qkdd_assign_slots(qkdd_slot_state *state, const qkdd_slot_settings *settings, const int64_t *times,
                              const uint8_t *detectors, size_t count, int64_t until, int64_t *slots, uint8_t *patterns,
                              size_t capacity, size_t *events, qkdd_slot_piece *pieces, size_t piece_capacity,
                              size_t *piece_count);

/* ---- privacy amplification: out[i] = XOR over j of seed[i - j + n - 1] & bits[j]. Constant-time in bits and seed. ---- */
size_t qkdd_toeplitz_workspace(size_t n, size_t m); /* in uint64_t */
/* bits[n], seed[n + m - 1], out[m], one bit a byte; the workspace is zeroed at the end. */
qkdd_status qkdd_toeplitz(const uint8_t *bits, size_t n, const uint8_t *seed, size_t m, uint8_t *out, uint64_t *workspace,
                          size_t workspace_size);
/* The same with packed bits, most significant bit first; non-zero unused low bits of a last byte are QKDD_MALFORMED. */
qkdd_status qkdd_toeplitz_packed(const uint8_t *bits, size_t n, const uint8_t *seed, size_t m, uint8_t *out,
                                 uint64_t *workspace, size_t workspace_size);

/* ---- polynomial hash over GF(2^128): GHASH of NIST SP 800-38D with key H, A = data, C empty. Constant-time in data and key
 * (the portable variant on processors whose 64-bit multiplication is). ---- */
typedef struct {
    uint64_t powers[16][2]; /* H^1 .. H^16 as POLYVAL elements, low word first */
    uint64_t sum[2];
    uint8_t buffer[16];
    uint64_t buffered;
    uint64_t size;
} qkdd_poly_hash;

void qkdd_poly_hash_open(qkdd_poly_hash *state, const uint8_t *key);
void qkdd_poly_hash_update(qkdd_poly_hash *state, const uint8_t *data, size_t size);
/* The digest of everything so far; the state is not changed. */
void qkdd_poly_hash_digest(const qkdd_poly_hash *state, uint8_t *digest);
void qkdd_poly_hash_wipe(qkdd_poly_hash *state);
/* All of it in one call. */
void qkdd_poly_hash_of(const uint8_t *key, const uint8_t *data, size_t size, uint8_t *digest);
/* Product in GHASH's bit order (the first bit of the first byte is the coefficient of x^0). */
void qkdd_gf2_128_multiply(const uint8_t *a, const uint8_t *b, uint8_t *product);

/* ---- Cascade: this node's side of a block, cut into frames that are corrected at the same time (docs/rooms/native.md) ---- */
/* In uint64_t. Frames of about frame_bits (64 to 2^22), `slots` of them in flight; 0 < error_rate <= 0.5, the estimate for
 * which blocks are sized; n up to 2^36. 0 if an argument is outside. */
size_t qkdd_cascade_workspace(size_t n, size_t frame_bits, size_t slots, double error_rate);
/* packed[(n + 7) / 8], most significant bit first; seed[32], public. correct_errors: 1 on the node whose bits are corrected. */
qkdd_status qkdd_cascade_open(uint64_t *work, size_t work_size, const uint8_t *packed, size_t n, const uint8_t *seed,
                              size_t frame_bits, size_t slots, double error_rate, int correct_errors);
/* Bytes of the largest message. */
size_t qkdd_cascade_message(const uint64_t *work);
/* Takes the other node's parities of the last round (none in the first call) and writes this node's of the next, packed, most
 * significant bit first; *asked bits, 0 when all frames are finished. Contradicting parities are QKDD_MALFORMED and end it. */
qkdd_status qkdd_cascade_step(uint64_t *work, const uint8_t *theirs, size_t size, uint8_t *mine, size_t *asked);
/* The corrected block, packed (NULL: the node whose bits stay has it), and the number of corrections; zeroes the workspace. */
qkdd_status qkdd_cascade_close(uint64_t *work, uint8_t *packed, uint64_t *errors);
/* ---- LDPC: syndromes and decoding of quasi-cyclic codes (docs/rooms/ldpc.md) ---- */
/* Row r of circulants has the entries starts[r] to starts[r + 1] - 1 (1 to 160, ascending columns): check i of row r holds the
 * bits (i + shift) mod lifting of its columns. lifting is a multiple of 64, at most 8192; at most 4096 columns and rows. */
typedef struct {
    uint32_t lifting, columns, rows;
    const uint32_t *starts, *columns_of, *shifts;
} qkdd_ldpc_code;

/* syndrome[rows * lifting] of bits[columns * lifting]. Constant-time in the bits. */
qkdd_status qkdd_ldpc_syndrome(const qkdd_ldpc_code *code, const uint8_t *bits, uint8_t *syndrome);
/* 64-bit words that decoding needs. */
qkdd_status qkdd_ldpc_workspace(const qkdd_ldpc_code *code, size_t *words);
/* The error pattern errors[columns * lifting] of this syndrome, by at most `iterations` of layered min-sum. prior: the bits'
 * values before (positive: no error), -127 to 127. tables[64 * stages]: outgoing magnitude for the smallest incoming
 * one, of the first stage whose limit (2^-16 of the checks) the share of unsatisfied checks reaches, or of the last.
 * *used: iterations taken, or iterations + 1 and errors zeroed if none was found. Time depends on the errors, not on a key. */
qkdd_status qkdd_ldpc_decode(const qkdd_ldpc_code *code, const uint8_t *syndrome, const int8_t *prior, const uint8_t *tables,
                             const uint32_t *limits, size_t stages, uint32_t iterations, uint64_t *workspace, size_t words,
                             uint8_t *errors, uint32_t *used);
/* CDEF END */

#endif
