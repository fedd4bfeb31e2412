/* SPDX-License-Identifier: Apache-2.0
 * Template of the loop that turns times into slots; included once for every variant with TARGET and PREFIX(name). All variants
 * round alike: one multiplication, one addition, floors, in doubles. */

/* rel[i] = the slot, counted from the model's own, whose centre is nearest to t[i]; fine[i] = how far behind that centre, in
 * 256ths of a slot, 128 at the centre; inside[i] = 1 if within half_gate slots of it. The caller sees to |rel| < 2^31. */
TARGET void PREFIX(slot_cells)(const int64_t *t, size_t n, int64_t origin, double rate, double phase, double half_gate,
                               int32_t *restrict rel, uint8_t *restrict fine, uint8_t *restrict inside) {
    for (size_t i = 0; i < n; i++) {
        double x = (double)(t[i] - origin) * rate + phase;
        double slot = floor(x + 0.5);
        double behind = x - slot;
        int32_t cell = (int32_t)((behind + 0.5) * 256.0);
        rel[i] = (int32_t)slot;
        fine[i] = (uint8_t)(cell > 255 ? 255 : cell);
        inside[i] = (uint8_t)((behind <= half_gate) & (behind >= -half_gate));
    }
}
