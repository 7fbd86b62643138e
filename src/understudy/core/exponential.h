/* exp in float32, within 2 ulp: Cephes' expf, in parts that hold for a number and for vectors.
 *
 * exp(x) = 2^n exp(f), where n is x / ln 2 rounded to a whole number and f what is left. */
#include <stdint.h>

#define LOG2_E 1.44269504088896341f

/* f of x and n; ln 2 in two parts, so that nothing is lost. */
#define REMAINDER(x, n) ((x) - (n) * 0.693359375f + (n) * 2.12194440e-4f)

/* exp(f), for |f| up to half of ln 2 */
#define EXP_NEAR_0(f)                                                                              \
    (((((((f) * 1.9875691500e-4f + 1.3981999507e-3f) * (f) + 8.3334519073e-3f) * (f) +             \
        4.1665795894e-2f) * (f) + 1.6666665459e-1f) * (f) + 5.0000001201e-1f) * (f) * (f) +        \
     (f) + 1.0f)

/* For x up to 87; what is below -87 counts as that. Loops of it are vectorised. */
static inline __attribute__((always_inline)) float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = __builtin_rintf(x * LOG2_E);
    float f = REMAINDER(x, n);
    union {
        int32_t i;
        float f;
    } two_n = {((int32_t)n + 127) << 23};
    return EXP_NEAR_0(f) * two_n.f;
}
