/* SPDX-License-Identifier: Apache-2.0
 * Template of the loops over times that the compiler makes vectors of; included once for every variant with TARGET and
 * PREFIX(name). All variants round alike: one multiplication, one addition, one rounding to the nearest, in doubles. */

TARGET int PREFIX(sorted)(const int64_t *t, size_t n) {
    int64_t back = 0;
    for (size_t i = 1; i < n; i++) back |= -(int64_t)(t[i] < t[i - 1]);
    return back == 0;
}

/* Another clock's times mapped into this one's. Monotonic, because |drift| < 1 and rint is monotonic. */
TARGET void PREFIX(map_times)(const int64_t *t, size_t n, double delay, double drift, int64_t origin,
                              int64_t *restrict mapped) {
    if (drift == 0) {
        int64_t shift = (int64_t)rint(delay);
        for (size_t i = 0; i < n; i++) mapped[i] = t[i] + shift;
        return;
    }
    for (size_t i = 0; i < n; i++) mapped[i] = t[i] + (int64_t)rint(delay + drift * (double)(t[i] - origin));
}
