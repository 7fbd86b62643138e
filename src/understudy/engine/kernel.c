/* Decode-side attention over a paged cache, for one model shape (HEAD_DIM, GROUP and BLOCK given by
 * -D).
 *
 * kv is one layer's cache: (blocks, 2, kv_heads, BLOCK, HEAD_DIM), float32, keys at index 0 and
 * values at index 1. Everything is single-threaded: the engine runs one thread per shard. */
#include <float.h>
#include <math.h>
#include <stdint.h>

#define D HEAD_DIM
#define G GROUP

static inline float fast_exp(float x) { /* Cephes' expf: within 2 ulp, and it vectorises */
    x = x < -87.0f ? -87.0f : x;
    float n = __builtin_rintf(x * 1.44269504088896341f);
    float f = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    union { int32_t i; float f; } two_n;
    two_n.i = ((int32_t)n + 127) << 23;
    return p * two_n.f;
}

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

/* q/k norm (null weights: none), RoPE, keys and values into the cache; q comes out as (n, H, D). */
void qkv_post(const float *qkv, const int64_t *blocks, const int64_t *at, const int64_t *positions,
              const float *cosine, const float *sine, const float *q_weight, const float *k_weight,
              float eps, float *kv, float *q, int64_t n, int64_t kv_heads) {
    int64_t heads = kv_heads * G, width = (heads + 2 * kv_heads) * D;
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
#define LANES 16
typedef float lanes_t __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
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

/* One query per row over its first lens[r] positions, which lie in the blocks of its table:
 * tables (n, width), out (n, H, D) and lse (n, H); scratch holds G * (width * BLOCK) scores. */
void attend(const float *q, const float *kv, const int64_t *tables, const int64_t *lens, float *out,
            float *lse, float *scratch, int64_t n, int64_t kv_heads, int64_t width, float scale) {
    int64_t longest = width * BLOCK;
    for (int64_t r = 0; r < n; r++)
        for (int64_t h = 0; h < kv_heads; h++) {
            const int64_t *table = tables + r * width;
            int64_t len = lens[r], first = (r * kv_heads + h) * G;
            float Q[G][D], O[G][D], inverse[G];
            for (int g = 0; g < G; g++)
                for (int d = 0; d < D; d++) {
                    Q[g][d] = q[(first + g) * D + d] * scale;
                    O[g][d] = 0;
                }
            for (int64_t t = 0; t < len; t += BLOCK) {
                const float *K = kv + (table[t / BLOCK] * 2 * kv_heads + h) * BLOCK * D;
                for (int g = 0; g < G; g++)
                    dots(Q[g], K, scratch + g * longest + t, len - t < BLOCK ? len - t : BLOCK);
            }
            for (int g = 0; g < G; g++) {
                float *s = scratch + g * longest, top = -FLT_MAX, sum = 0;
#pragma omp simd reduction(max : top)
                for (int64_t t = 0; t < len; t++) top = s[t] > top ? s[t] : top;
#pragma omp simd reduction(+ : sum)
                for (int64_t t = 0; t < len; t++) {
                    s[t] = fast_exp(s[t] - top);
                    sum += s[t];
                }
                lse[first + g] = top + logf(sum);
                inverse[g] = 1.0f / sum;
            }
            for (int64_t t = 0; t < len; t++) {
                const float *V =
                    kv + ((table[t / BLOCK] * 2 + 1) * kv_heads + h) * BLOCK * D + t % BLOCK * D;
                for (int g = 0; g < G; g++) {
                    float p = scratch[g * longest + t];
                    for (int d = 0; d < D; d++) O[g][d] += p * V[d];
                }
            }
            for (int g = 0; g < G; g++)
                for (int d = 0; d < D; d++) out[(first + g) * D + d] = O[g][d] * inverse[g];
        }
}

void rms_norm(const float *x, const float *weight, float eps, float *y, int64_t n, int64_t width) {
    for (int64_t i = 0; i < n; i++, x += width, y += width) {
        float ss = 0;
#pragma omp simd reduction(+ : ss)
        for (int64_t d = 0; d < width; d++) ss += x[d] * x[d];
        float inv = 1.0f / sqrtf(ss / width + eps);
        for (int64_t d = 0; d < width; d++) y[d] = x[d] * inv * weight[d];
    }
}

/* SwiGLU: gate_up (n, 2 * width) -> silu(gate) * up (n, width). */
void silu_mul(const float *gate_up, float *y, int64_t n, int64_t width) {
    for (int64_t i = 0; i < n; i++, gate_up += 2 * width, y += width)
        for (int64_t d = 0; d < width; d++)
            y[d] = gate_up[d] / (1.0f + fast_exp(-gate_up[d] > 87.0f ? 87.0f : -gate_up[d])) *
                   gate_up[width + d];
}

/* t = x A for A (width, rank): all columns in sums of 16 lanes, several rows of A at once. */
static void down(const float *x, const float *A, float *t, int64_t width, int64_t rank) {
    int64_t c = 0;
    for (; c + 16 <= rank; c += 16) {
        lanes_t s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        const float *a = A + c;
        int64_t i = 0;
        for (; i + 4 <= width; i += 4, a += 4 * rank) {
            s0 += x[i] * *(const lanes_t *)a;
            s1 += x[i + 1] * *(const lanes_t *)(a + rank);
            s2 += x[i + 2] * *(const lanes_t *)(a + 2 * rank);
            s3 += x[i + 3] * *(const lanes_t *)(a + 3 * rank);
        }
        for (; i < width; i++, a += rank) s0 += x[i] * *(const lanes_t *)a;
        *(lanes_t *)(t + c) = (s0 + s1) + (s2 + s3);
    }
    if (c == rank) return;
    for (int64_t k = c; k < rank; k++) t[k] = 0;
    for (int64_t i = 0; i < width; i++)
        for (int64_t k = c; k < rank; k++) t[k] += x[i] * A[i * rank + k];
}

/* y += t B for B (rank, width), four rows of B at once. */
static void up(const float *t, const float *B, float *y, int64_t rank, int64_t width) {
    int64_t k = 0;
    for (; k + 4 <= rank; k += 4, B += 4 * width)
        for (int64_t d = 0; d < width; d++)
            y[d] += (t[k] * B[d] + t[k + 1] * B[width + d]) +
                    (t[k + 2] * B[2 * width + d] + t[k + 3] * B[3 * width + d]);
    for (; k < rank; k++, B += width)
        for (int64_t d = 0; d < width; d++) y[d] += t[k] * B[d];
}

/* Low-rank products of one site: row rows[i] of y (., out) gains that of x (., in) by adapter i.
 * tables[i] + offset: the address of A (in, ranks), the sum of ranks, the number of parts, and for
 * each part its first column of A, its rank, its first column of y, its width and its B's address.
 * An adapter without this site has 0 there. */
void lora_add(const float *x, float *y, const int64_t *rows, const int64_t *tables, int64_t n,
              int64_t offset, int64_t in, int64_t out, float *scratch) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t *table = (const int64_t *)tables[i] + offset;
        if (!table[0]) continue;
        down(x + rows[i] * in, (const float *)table[0], scratch, in, table[1]);
        for (int64_t p = 0; p < table[2]; p++) {
            const int64_t *part = table + 3 + 5 * p;
            up(scratch + part[0], (const float *)part[4], y + rows[i] * out + part[2], part[1],
               part[3]);
        }
    }
}
