/* What lies between a decoder layer's products, forward and backward, each in one pass over memory:
 * RMSNorm, the rotation of queries and keys with the norm before it, SwiGLU.
 *
 * A tensor is float32 or, where its `half` is set, bf16; everything is computed in float32. Rows are
 * contiguous but for the gradients of what was rotated. Everything is single-threaded. */
#include <math.h>
#include <stdint.h>

#include "exponential.h"

#define INLINE static inline __attribute__((always_inline))

typedef union {
    float f;
    uint32_t i;
} word;

INLINE float get(const void *x, int64_t i, int half) {
    if (!half) return ((const float *)x)[i];
    word w = {.i = (uint32_t)((const uint16_t *)x)[i] << 16};
    return w.f;
}

INLINE void put(void *x, int64_t i, int half, float v) { /* rounds to the nearest, ties to even */
    word w = {.f = v};
    if (half)
        ((uint16_t *)x)[i] = v != v ? 0x7fc0 : (w.i + 0x7fff + ((w.i >> 16) & 1)) >> 16;
    else
        ((float *)x)[i] = v;
}

INLINE float sigmoid(float x) {
    return 1.0f / (1.0f + exponential(x < -87.0f ? 87.0f : -x));
}

/* A body for each pair of types, so that none is asked for within a loop. */
#define TYPED(a, b, body)                                                                          \
    if (a) {                                                                                       \
        if (b) body(1, 1) else body(1, 0)                                                          \
    } else {                                                                                       \
        if (b) body(0, 1) else body(0, 0)                                                          \
    }

/* 1 / sqrt(mean of x^2 + eps) */
INLINE float inverse_of(const void *x, int64_t at, int half, int64_t width, float eps) {
    float squares = 0;
    for (int64_t i = 0; i < width; i++) squares += get(x, at + i, half) * get(x, at + i, half);
    return 1.0f / sqrtf(squares / width + eps);
}

/* y = x * inverse * weight, row by row; inverse (rows,) is kept. */
void norm(const void *x, int x_half, const float *weight, float eps, void *y, int y_half,
          float *inverse, int64_t rows, int64_t width) {
#define BODY(a, b)                                                                                 \
    for (int64_t n = 0, at = 0; n < rows; n++, at += width) {                                      \
        float by = inverse[n] = inverse_of(x, at, a, width, eps);                                  \
        for (int64_t i = 0; i < width; i++) put(y, at + i, b, get(x, at + i, a) * by * weight[i]); \
    }
    TYPED(x_half, y_half, BODY)
#undef BODY
}

/* A row's gradient: inverse * (g - x' * mean of g x'), where g is the gradient by weight and x' is x
 * by inverse. The weight's own, where it is wanted, gains that of g before x'. */
#define NORM_BACKWARD(a, gradient)                                                                 \
    float mean = 0;                                                                                \
    for (int64_t i = 0; i < width; i++) mean += (gradient)*weight[i] * get(x, at + i, a);          \
    mean *= by * by / width;                                                                       \
    for (int64_t i = 0; to_weight && i < width; i++)                                               \
        to_weight[i] += (gradient)*by * get(x, at + i, a);                                         \
    for (int64_t i = 0; i < width; i++)                                                            \
        put(dx, at + i, a, by *((gradient)*weight[i] - get(x, at + i, a) * mean));

/* dx is of x's type. to_weight (width,), to be added to, may be null. */
void norm_backward(const void *x, int x_half, const float *weight, const float *inverse,
                   const void *grad, int grad_half, void *dx, float *to_weight, int64_t rows,
                   int64_t width) {
#define BODY(a, b)                                                                                 \
    for (int64_t n = 0, at = 0; n < rows; n++, at += width) {                                      \
        float by = inverse[n];                                                                     \
        NORM_BACKWARD(a, get(grad, at + i, b))                                                     \
    }
    TYPED(x_half, grad_half, BODY)
#undef BODY
}

/* y (rows, heads, width), float32: x turned by its row's angles, cosine and sine (rows, width); where
 * there is a weight, its norm is taken before. */
void rotate(const void *x, int x_half, const float *weight, float eps, const float *cosine,
            const float *sine, float *y, float *inverse, int64_t rows, int64_t heads,
            int64_t width) {
    int64_t half_width = width / 2;
#define BODY(a, normed)                                                                            \
    for (int64_t n = 0; n < rows; n++)                                                             \
        for (int64_t h = 0; h < heads; h++) {                                                      \
            int64_t at = (n * heads + h) * width;                                                  \
            const float *c = cosine + n * width, *s = sine + n * width;                            \
            float by = 1;                                                                          \
            if (normed) by = inverse[n * heads + h] = inverse_of(x, at, a, width, eps);            \
            for (int64_t i = 0, j = half_width; i < half_width; i++, j++) {                        \
                float low = get(x, at + i, a), high = get(x, at + j, a);                           \
                if (normed) low *= by * weight[i], high *= by * weight[j];                         \
                y[at + i] = low * c[i] - high * s[i];                                              \
                y[at + j] = high * c[j] + low * s[j];                                              \
            }                                                                                      \
        }
    TYPED(x_half, weight != 0, BODY)
#undef BODY
}

/* dx (rows, heads, width) of x's type from the gradient, whose row n of head h is at
 * n * grad_row + h * grad_head. turned: `width` floats. */
void rotate_backward(const void *x, int x_half, const float *weight, const float *inverse,
                     const float *cosine, const float *sine, const float *grad, int64_t grad_row,
                     int64_t grad_head, float *turned, void *dx, float *to_weight, int64_t rows,
                     int64_t heads, int64_t width) {
    int64_t half_width = width / 2;
#define BODY(a, normed)                                                                            \
    for (int64_t n = 0; n < rows; n++)                                                             \
        for (int64_t h = 0; h < heads; h++) {                                                      \
            int64_t at = (n * heads + h) * width;                                                  \
            const float *c = cosine + n * width, *s = sine + n * width;                            \
            const float *g = grad + n * grad_row + h * grad_head;                                  \
            for (int64_t i = 0, j = half_width; i < half_width; i++, j++) {                        \
                turned[i] = g[i] * c[i] + g[j] * s[j];                                             \
                turned[j] = g[j] * c[j] - g[i] * s[i];                                             \
            }                                                                                      \
            if (normed) {                                                                          \
                float by = inverse[n * heads + h];                                                 \
                NORM_BACKWARD(a, turned[i])                                                        \
            } else {                                                                               \
                for (int64_t i = 0; i < width; i++) put(dx, at + i, a, turned[i]);                 \
            }                                                                                      \
        }
    TYPED(x_half, weight != 0, BODY)
#undef BODY
}

/* y = gate * sigmoid(gate) * up; all of one type. */
void swiglu(const void *gate, const void *up, void *y, int half, int64_t count) {
#define BODY(a, unused)                                                                            \
    for (int64_t i = 0; i < count; i++) {                                                          \
        float g = get(gate, i, a);                                                                 \
        put(y, i, a, g * sigmoid(g) * get(up, i, a));                                              \
    }
    TYPED(half, 0, BODY)
#undef BODY
}

void swiglu_backward(const void *gate, const void *up, const void *grad, void *to_gate, void *to_up,
                     int half, int64_t count) {
#define BODY(a, unused)                                                                            \
    for (int64_t i = 0; i < count; i++) {                                                          \
        float g = get(gate, i, a), to = get(grad, i, a), s = sigmoid(g);                           \
        put(to_up, i, a, to * g * s);                                                              \
        put(to_gate, i, a, to * get(up, i, a) * s * (1.0f + g * (1.0f - s)));                      \
    }
    TYPED(half, 0, BODY)
#undef BODY
}
