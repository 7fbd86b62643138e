/* Decode-side attention over a paged cache, for one model shape (HEAD_DIM, GROUP and BLOCK given by
 * -D).
 *
 * kv is one layer's cache: (blocks, 2, kv_heads, BLOCK, HEAD_DIM), float32, keys at index 0 and
 * values at index 1. Everything is single-threaded: the engine runs one thread per shard. */
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "exponential.h"

#define D HEAD_DIM
#define G GROUP
#define LANES 16
typedef float lanes_t __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

static void norm_rope(const float *x, float *y, const float *weight, float eps, const float *cosine,
                      const float *sine) {
    float t[D];
    for (int d = 0; d < D; d++) t[d] = x[d];
    if (weight) {
        float ss = 0;
        for (int d = 0; d < D; d++) ss += t[d] * t[d];
        float inv = 1.0f / sqrtf(ss / D + eps);
        for (int d = 0; d < D; d++) t[d] = t[d] * inv * weight[d];
    }
    for (int d = 0; d < D / 2; d++) {
        y[d] = t[d] * cosine[d] - t[d + D / 2] * sine[d];
        y[d + D / 2] = t[d + D / 2] * cosine[d] + t[d] * sine[d];
    }
}

/* An adapter's matrices are float, or half of that: bfloat16, the upper 16 bits of a float. */
typedef uint16_t halves_t __attribute__((vector_size(LANES * sizeof(uint16_t)), aligned(2)));
typedef uint32_t wholes_t __attribute__((vector_size(LANES * sizeof(uint32_t))));
#define INLINE static inline __attribute__((always_inline))
#define LINE 64

/* Each adapter is read once a step, so from memory. In half precision reading waits for memory more
 * than for its bandwidth: what the next row needs, `next` bytes further, is asked for early. */
INLINE void ahead(const void *m, int64_t i, int64_t n, int half, int64_t next) {
    int64_t size = half ? sizeof(uint16_t) : sizeof(float);
    const char *from = (const char *)m + i * size + next;
    for (int64_t b = 0; b < n * size; b += LINE) __builtin_prefetch(from + b);
}

INLINE lanes_t lanes(const void *m, int64_t i, int half) {
    if (!half) return *(const lanes_t *)((const float *)m + i);
    return (lanes_t)(__builtin_convertvector(*(const halves_t *)((const uint16_t *)m + i),
                                             wholes_t) << 16);
}

INLINE float one(const void *m, int64_t i, int half) {
    if (!half) return ((const float *)m)[i];
    union { uint32_t i; float f; } whole = {(uint32_t)((const uint16_t *)m)[i] << 16};
    return whole.f;
}

/* t = x A for `many` times 16 columns of A (width, rank) from `c` on, four rows of A at once. */
INLINE void down_columns(const float *x, const void *A, float *t, int64_t width, int64_t rank,
                         int64_t c, int many, int half, int64_t next) {
    lanes_t sums[3][4] = {0};
    int64_t i = 0, a = c;
    for (; i + 4 <= width; i += 4, a += 4 * rank) {
        if (half && !c) ahead(A, a, 4 * rank, half, next);
        for (int r = 0; r < 4; r++)
            for (int m = 0; m < many; m++)
                sums[m][r] += x[i + r] * lanes(A, a + r * rank + m * LANES, half);
    }
    for (; i < width; i++, a += rank)
        for (int m = 0; m < many; m++) sums[m][0] += x[i] * lanes(A, a + m * LANES, half);
    for (int m = 0; m < many; m++)
        *(lanes_t *)(t + c + m * LANES) = (sums[m][0] + sums[m][1]) + (sums[m][2] + sums[m][3]);
}

/* t = x A for A (width, rank): A in one pass where its rank is 16, 32 or 48. */
INLINE void down(const float *x, const void *A, float *t, int64_t width, int64_t rank, int half,
                 int64_t next) {
    int64_t c = 0;
    for (; c + 3 * LANES <= rank; c += 3 * LANES)
        down_columns(x, A, t, width, rank, c, 3, half, next);
    if (c + 2 * LANES <= rank) {
        down_columns(x, A, t, width, rank, c, 2, half, next);
        c += 2 * LANES;
    } else if (c + LANES <= rank) {
        down_columns(x, A, t, width, rank, c, 1, half, next);
        c += LANES;
    }
    if (c == rank) return;
    for (int64_t k = c; k < rank; k++) t[k] = 0;
    for (int64_t i = 0; i < width; i++)
        for (int64_t k = c; k < rank; k++) t[k] += x[i] * one(A, i * rank + k, half);
}

/* y += t B for `many` times 16 columns of B (rank, width) from `d` on, all rows. */
INLINE void up_columns(const float *t, const void *B, float *y, int64_t rank, int64_t width,
                       int64_t d, int many, int half, int64_t next) {
    lanes_t sums[8];
    for (int m = 0; m < many; m++) sums[m] = *(lanes_t *)(y + d + m * LANES);
    for (int64_t k = 0, b = d; k < rank; k++, b += width) {
        if (half) ahead(B, b, many * LANES, half, next);
        for (int m = 0; m < many; m++) sums[m] += t[k] * lanes(B, b + m * LANES, half);
    }
    for (int m = 0; m < many; m++) *(lanes_t *)(y + d + m * LANES) = sums[m];
}

/* y += t B for B (rank, width). */
INLINE void up(const float *t, const void *B, float *y, int64_t rank, int64_t width, int half,
               int64_t next) {
    int64_t d = 0;
    for (; d + 8 * LANES <= width; d += 8 * LANES)
        up_columns(t, B, y, rank, width, d, 8, half, next);
    for (; d + 4 * LANES <= width; d += 4 * LANES)
        up_columns(t, B, y, rank, width, d, 4, half, next);
    for (; d + LANES <= width; d += LANES) up_columns(t, B, y, rank, width, d, 1, half, next);
    for (; d < width; d++)
        for (int64_t k = 0; k < rank; k++) y[d] += t[k] * one(B, k * width + d, half);
}

/* A row's products with one adapter. */
INLINE void add_row(const float *x, float *y, const int64_t *table, float *scratch, int64_t in,
                    int half, int64_t next) {
    down(x, (const void *)table[0], scratch, in, table[1], half, next);
    for (int64_t k = 0; k < table[3]; k++) {
        const int64_t *part = table + 4 + 5 * k;
        up(scratch + part[0], (const void *)part[4], y + part[2], part[1], part[3], half, next);
    }
}

/* Low-rank products of one site: row rows[i] of y (., out) gains that of x (., in) by adapter i.
 * tables[i] + offset: the address of A (in, ranks), the sum of ranks, whether the adapter is in
 * half precision, the number of parts, and for each part its first column of A, its rank, its first
 * column of y, its width and its B's address. An adapter without this site has 0 there. */
typedef struct {
    const float *x;
    float *y;
    const int64_t *rows, *tables;
    int64_t n, offset, in, out;
    float *scratch;
} products;

/* Also called first by the functions that read y next (null: nothing to do). */
void lora_add(const products *p) {
    if (!p) return;
    for (int64_t i = 0; i < p->n; i++) {
        const int64_t *table = (const int64_t *)p->tables[i] + p->offset;
        const float *x = p->x + p->rows[i] * p->in;
        float *y = p->y + p->rows[i] * p->out;
        int64_t next = i + 1 < p->n ? ((const int64_t *)p->tables[i + 1])[p->offset] - table[0] : 0;
        if (i + 2 < p->n) __builtin_prefetch((const int64_t *)p->tables[i + 2] + p->offset);
        if (table[0] && table[2]) add_row(x, y, table, p->scratch, p->in, 1, next);
        else if (table[0]) add_row(x, y, table, p->scratch, p->in, 0, next);
    }
}

/* q/k norm (null weights: none), RoPE, keys and values into the cache; q comes out as (n, H, D). */
void qkv_post(const products *first, const float *qkv, const int64_t *blocks, const int64_t *at,
              const int64_t *positions, const float *cosine, const float *sine,
              const float *q_weight, const float *k_weight, float eps, float *kv, float *q,
              int64_t n, int64_t kv_heads) {
    int64_t heads = kv_heads * G, width = (heads + 2 * kv_heads) * D;
    lora_add(first);
    for (int64_t i = 0; i < n; i++) {
        const float *row = qkv + i * width;
        const float *c = cosine + positions[i] * (D / 2), *s = sine + positions[i] * (D / 2);
        for (int64_t h = 0; h < heads; h++)
            norm_rope(row + h * D, q + (i * heads + h) * D, q_weight, eps, c, s);
        for (int64_t h = 0; h < kv_heads; h++) {
            float *key = kv + ((blocks[i] * 2 * kv_heads + h) * BLOCK + at[i]) * D;
            float *value = key + kv_heads * BLOCK * D;
            norm_rope(row + (heads + h) * D, key, k_weight, eps, c, s);
            const float *v = row + (heads + kv_heads + h) * D;
            for (int d = 0; d < D; d++) value[d] = v[d];
        }
    }
}

/* s[t] = q . K[t]. Where D has a divisor of 16 lanes, positions go in blocks of LANES whose partial
 * sums are transposed and added together, which saves a horizontal sum a position. */
typedef int32_t index_t __attribute__((vector_size(LANES * sizeof(int32_t))));

static void dots(const float *q, const float *K, float *s, int64_t len) {
    int64_t t = 0;
#if defined(__AVX512F__) && !defined(__clang__) && HEAD_DIM % 16 == 0
    const index_t low[4] = {{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30},
                            {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
                            {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
                            {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}};
    const index_t high[4] = {{1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31},
                             {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31},
                             {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31},
                             {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31}};
    for (; t + LANES <= len; t += LANES) {
        lanes_t a[LANES];
        for (int i = 0; i < LANES; i++) {
            const float *k = K + (t + i) * D;
            lanes_t sum = *(const lanes_t *)q * *(const lanes_t *)k;
            for (int d = LANES; d < D; d += LANES)
                sum += *(const lanes_t *)(q + d) * *(const lanes_t *)(k + d);
            a[i] = sum;
        }
        for (int level = 0, n = LANES / 2; n >= 1; level++, n /= 2)
            for (int i = 0; i < n; i++)
                a[i] = __builtin_shuffle(a[2 * i], a[2 * i + 1], low[level]) +
                       __builtin_shuffle(a[2 * i], a[2 * i + 1], high[level]);
        *(lanes_t *)(s + t) = a[0];
    }
#endif
    for (; t < len; t++) {
        float dot = 0;
        for (int d = 0; d < D; d++) dot += q[d] * K[t * D + d];
        s[t] = dot;
    }
}

/* A block of keys or values of one head lies together, and the next one anywhere: who comes to it
 * unannounced waits for memory. So each block's lines are asked for while the one before is read. */
static inline void ask_for(const float *from, int64_t rows) {
    for (int64_t i = 0; i < rows * D; i += LINE / (int64_t)sizeof(float)) __builtin_prefetch(from + i);
}

/* One query per row over its first lens[r] positions, which lie in the blocks of its table:
 * tables (n, width), out (n, H, D) and lse (n, H); scratch holds G * (width * BLOCK) scores. */
void attend(const float *q, const float *kv, const int64_t *tables, const int64_t *lens, float *out,
            float *lse, float *scratch, int64_t n, int64_t kv_heads, int64_t width, float scale) {
    int64_t longest = width * BLOCK, values = kv_heads * BLOCK * D, whole = 2 * values;
    for (int64_t r = 0; r < n; r++)
        for (int64_t h = 0; h < kv_heads; h++) {
            const int64_t *table = tables + r * width;
            const float *keys = kv + h * BLOCK * D;
            int64_t len = lens[r], blocks = (len + BLOCK - 1) / BLOCK;
            int64_t first = (r * kv_heads + h) * G;
            float Q[G][D], O[G][D], inverse[G];
            for (int g = 0; g < G; g++)
                for (int d = 0; d < D; d++) {
                    Q[g][d] = q[(first + g) * D + d] * scale;
                    O[g][d] = 0;
                }
            for (int64_t b = 0; b < blocks; b++) {
                int64_t left = len - b * BLOCK, here = left < BLOCK ? left : BLOCK;
                const float *K = keys + table[b] * whole;
                const float *next = keys + (b + 1 < blocks ? table[b + 1] * whole
                                                           : table[0] * whole + values);
                for (int g = 0; g < G; g++) {
                    ask_for(next + g * (BLOCK / G) * D, BLOCK / G);
                    dots(Q[g], K, scratch + g * longest + b * BLOCK, here);
                }
            }
            for (int g = 0; g < G; g++) {
                float *s = scratch + g * longest, top = -FLT_MAX, sum = 0;
#pragma omp simd reduction(max : top)
                for (int64_t t = 0; t < len; t++) top = s[t] > top ? s[t] : top;
#pragma omp simd reduction(+ : sum)
                for (int64_t t = 0; t < len; t++) {
                    s[t] = exponential(s[t] - top);
                    sum += s[t];
                }
                lse[first + g] = top + logf(sum);
                inverse[g] = 1.0f / sum;
            }
            for (int64_t b = 0; b < blocks; b++) {
                int64_t left = len - b * BLOCK, here = left < BLOCK ? left : BLOCK;
                const float *V = keys + table[b] * whole + values, *next = V;
                if (b + 1 < blocks) next = keys + table[b + 1] * whole + values;
                else if (h + 1 < kv_heads) next = keys + BLOCK * D + table[0] * whole;
                else if (r + 1 < n) next = kv + table[width] * whole;
                for (int64_t t = 0; t < here; t++) {
                    ask_for(next + t * D, 1);
                    for (int g = 0; g < G; g++) {
                        float p = scratch[g * longest + b * BLOCK + t];
                        for (int d = 0; d < D; d++) O[g][d] += p * V[t * D + d];
                    }
                }
            }
            for (int g = 0; g < G; g++)
                for (int d = 0; d < D; d++) out[(first + g) * D + d] = O[g][d] * inverse[g];
        }
}

void rms_norm(const products *first, const float *x, const float *weight, float eps, float *y,
              int64_t n, int64_t width) {
    lora_add(first);
    for (int64_t i = 0; i < n; i++, x += width, y += width) {
        float ss = 0;
#pragma omp simd reduction(+ : ss)
        for (int64_t d = 0; d < width; d++) ss += x[d] * x[d];
        float inv = 1.0f / sqrtf(ss / width + eps);
        for (int64_t d = 0; d < width; d++) y[d] = x[d] * inv * weight[d];
    }
}

/* SwiGLU: gate_up (n, 2 * width) -> silu(gate) * up (n, width). */
void silu_mul(const products *first, const float *gate_up, float *y, int64_t n, int64_t width) {
    lora_add(first);
    for (int64_t i = 0; i < n; i++, gate_up += 2 * width, y += width)
        for (int64_t d = 0; d < width; d++)
            y[d] = gate_up[d] / (1.0f + exponential(-gate_up[d] > 87.0f ? 87.0f : -gate_up[d])) *
                   gate_up[width + d];
}
