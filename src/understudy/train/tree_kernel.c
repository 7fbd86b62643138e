/* Exact attention over a token tree, forward and backward, for one head width (HEAD_DIM by -D).
 *
 * Nodes lie in depth-first order and make chains; a node sees its own chain up to itself and, of
 * each chain above, what lies before the branching point. A block of queries of one chain therefore
 * meets a few runs of keys, each from a chain's start on. Softmax is taken online, and computed
 * again on the way back from its log-sum-exp (FlashAttention, arXiv 2205.14135).
 *
 * Everything is float32 and single-threaded; the caller gives each thread heads of its own. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define D HEAD_DIM
#ifdef __AVX512F__
#define LANES 16
#define WIDE 4 /* vectors of a panel: with ROWS of them, as many sums as registers hold */
#define ROWS(vectors) ((vectors) == 4 ? 6 : (vectors) == 3 ? 8 : 12)
#else
#define LANES 8
#define WIDE 2
#define ROWS(vectors) ((vectors) == 2 ? 6 : 12)
#endif
#define PANEL (WIDE * LANES)
#define STEP 24 /* a multiple of all ROWS: rows are filled up to it */
#define QUERIES 48
#define KEYS 192
#define INLINE static inline __attribute__((always_inline))
#define UP(x, to) (((x) + (to) - 1) / (to) * (to))

_Static_assert(QUERIES % STEP == 0 && KEYS % STEP == 0 && KEYS % PANEL == 0 && D % LANES == 0, "");

typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef int32_t ints __attribute__((vector_size(LANES * sizeof(int32_t))));

INLINE vec load(const float *x) { return *(const vec *)x; }
INLINE void store(float *x, vec v) { *(vec *)x = v; }

INLINE vec choose(ints where, vec a, vec b) {
    return (vec)((where & (ints)a) | (~where & (ints)b));
}

INLINE vec exponential(vec x) { /* Cephes' expf: within 2 ulp; 0 far below */
    vec low = choose(x < -87.0f, (vec){} - 87.0f, x);
    vec n = low * 1.44269504088896341f + 12582912.0f; /* rounds: 1.5 * 2^23 */
    ints two_n = (((ints)n) << 23) + (127 << 23);
    n -= 12582912.0f;
    vec f = low - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = f * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    return choose(x < -87.0f, (vec){}, p * (vec)two_n);
}

INLINE float sum_of(vec v) {
    float s = 0;
    for (int i = 0; i < LANES; i++) s += v[i];
    return s;
}

INLINE float max_of(vec v) {
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
    return m;
}

/* c (rows, vectors) = or += a (rows, k) b (k, vectors): a's rows are `down` apart and its columns
 * `across`. */
INLINE void tile(int rows, int vectors, int add, int64_t k, const float *a, int64_t down,
                 int64_t across, const float *b, int64_t b_row, float *c, int64_t c_row) {
    vec sums[12][WIDE];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sums[i][v] = add ? load(c + i * c_row + v * LANES) : (vec){};
    for (int64_t at = 0; at < k; at++) {
        vec line[WIDE];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) line[v] = load(b + at * b_row + v * LANES);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            float one = a[i * down + at * across];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[i][v] += one * line[v];
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(c + i * c_row + v * LANES, sums[i][v]);
}

/* A panel of up to WIDE vectors of c; `rows` is filled up to a multiple of ROWS, by STEP at most. */
INLINE void panel(int64_t rows, int vectors, int add, int64_t k, const float *a, int64_t down,
                  int64_t across, const float *b, int64_t b_row, float *c, int64_t c_row) {
#define CASE(n)                                                                                    \
    case n:                                                                                        \
        for (int64_t i = 0; i < rows; i += ROWS(n))                                                \
            tile(ROWS(n), n, add, k, a + i * down, down, across, b, b_row, c + i * c_row, c_row);  \
        break;
    switch (vectors) {
        CASE(1)
        CASE(2)
#if WIDE == 4
        CASE(3)
        CASE(4)
#endif
    }
}

/* c (rows, D) += a (rows, k) b (k, D). */
static void add_product(int64_t rows, int64_t k, const float *a, int64_t down, int64_t across,
                        const float *b, int64_t b_row, float *c, int64_t c_row) {
    for (int64_t d = 0; d < D; d += PANEL)
        panel(rows, (D - d < PANEL ? D - d : PANEL) / LANES, 1, k, a, down, across, b + d, b_row,
              c + d, c_row);
}

/* A tree's chains: chain c is nodes start[c] .. start[c + 1]; its parent chain is up[c] (-1: none),
 * of which it sees the first seen[c] nodes. Nodes first[c] .. stop[c] of it attend. packed[c] is
 * where its keys begin in what `pack` makes. */
typedef struct {
    int64_t chains;
    const int64_t *start, *up, *seen, *first, *stop, *packed;
} tree_t;

/* One head's keys (or values), each chain's in panels (D, up to PANEL): columns of products with
 * queries. What fills up a chain's last panel is zero. */
static void pack(const tree_t *tree, const float *x, int64_t row, float *into) {
    for (int64_t c = 0; c < tree->chains; c++) {
        int64_t length = tree->start[c + 1] - tree->start[c];
        for (int64_t p = 0; p < length; p += PANEL) {
            const float *from = x + (tree->start[c] + p) * row;
            float *to = into + (tree->packed[c] + p) * D;
            int64_t here = length - p < PANEL ? length - p : PANEL, width = UP(here, LANES);
            for (int64_t d = 0; d < D; d++) {
                for (int64_t i = 0; i < here; i++) to[d * width + i] = from[i * row + d];
                for (int64_t i = here; i < width; i++) to[d * width + i] = 0;
            }
        }
    }
}

/* c (rows, `keys` of the chain from `from` on) = a (rows, D) packed (D, keys). `from` is a multiple
 * of PANEL. */
static void with_keys(int64_t rows, const float *a, const float *packed, int64_t from, int64_t keys,
                      int64_t length, float *c) {
    for (int64_t p = 0; p < keys; p += PANEL) {
        int64_t left = length - from - p, here = keys - p;
        int64_t width = left < PANEL ? UP(left, LANES) : PANEL;
        int64_t vectors = here < PANEL ? UP(here, LANES) / LANES : WIDE;
        panel(rows, vectors, 0, D, a, D, 1, packed + (from + p) * D, width, c + p, KEYS);
    }
}

/* A block of queries of one chain and a run of keys that they meet. */
typedef struct {
    int64_t chain, from, keys; /* the first `keys` from `from` on of this chain's */
    int own;                   /* the queries' own chain: causal */
} run_t;

/* The next run of keys, up to KEYS of them: first the queries' own chain, then those above. */
INLINE int next_run(const tree_t *tree, run_t *run, int64_t *left) {
    run->from += run->keys;
    *left -= run->keys;
    if (*left <= 0) {
        int64_t c = run->chain;
        if (tree->up[c] < 0) return 0;
        *left = tree->seen[c];
        run->chain = tree->up[c];
        run->from = 0;
        run->own = 0;
    }
    run->keys = *left < KEYS ? *left : KEYS;
    return 1;
}

/* How many keys of the run the query at `at` of its chain sees. */
INLINE int64_t seen_by(const run_t *run, int64_t at) {
    if (!run->own) return run->keys;
    int64_t seen = at + 1 - run->from;
    return seen < 0 ? 0 : seen < run->keys ? seen : run->keys;
}

/* q, k, v, out: rows of D floats; row n of head h at h * head + n * row of each. */
typedef struct {
    float *at;
    int64_t head, row;
} heads_t;

INLINE void take(const heads_t *x, int64_t head, int64_t n, int64_t count, float scale, float *to) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t d = 0; d < D; d++)
            to[i * D + d] = x->at[head * x->head + (n + i) * x->row + d] * scale;
    memset(to + count * D, 0, (UP(count, STEP) - count) * D * sizeof(float));
}

/* Attention of the query heads of key heads first .. last - 1, `group` each. lse is (heads, nodes);
 * nodes behind the last chain are nobody's.
 * scratch: as many floats as `pack` fills. */
void attend(const tree_t *tree, const heads_t *q, const heads_t *k, const heads_t *v,
            const heads_t *out, float *lse, int64_t nodes, float *scratch, int64_t first,
            int64_t last, int64_t group, float scale) {
    float queries[QUERIES * D], sums[QUERIES * D], scores[QUERIES * KEYS];
    float most[QUERIES], total[QUERIES];
    for (int64_t g = first; g < last; g++) {
        pack(tree, k->at + g * k->head, k->row, scratch);
        for (int64_t h = g * group; h < (g + 1) * group; h++)
            for (int64_t c = 0; c < tree->chains; c++)
                for (int64_t n = tree->first[c]; n < tree->stop[c]; n += QUERIES) {
                    int64_t own = n - tree->start[c], left = tree->stop[c] - n;
                    int64_t count = left < QUERIES ? left : QUERIES;
                    take(q, h, n, count, scale, queries);
                    memset(sums, 0, sizeof sums);
                    for (int i = 0; i < count; i++) most[i] = -INFINITY, total[i] = 0;
                    run_t run = {c, 0, 0, 1};
                    int64_t rest = own + count;
                    while (next_run(tree, &run, &rest)) {
                        int64_t start = tree->start[run.chain];
                        with_keys(count, queries, scratch + tree->packed[run.chain] * D, run.from,
                                  run.keys, tree->start[run.chain + 1] - start, scores);
                        for (int64_t i = 0; i < count; i++) {
                            float *s = scores + i * KEYS;
                            int64_t seen = seen_by(&run, own + i), end = UP(run.keys, LANES);
                            for (int64_t j = seen; j < end; j++) s[j] = -INFINITY;
                            vec top = load(s);
                            for (int64_t j = LANES; j < end; j += LANES) {
                                vec x = load(s + j);
                                top = choose(x > top, x, top);
                            }
                            float now = max_of(top);
                            if (now > most[i]) {
                                float fade = expf(most[i] - now);
                                most[i] = now;
                                total[i] *= fade;
                                for (int64_t d = 0; d < D; d++) sums[i * D + d] *= fade;
                            }
                            vec sum = {};
                            for (int64_t j = 0; j < end; j += LANES) {
                                vec p = exponential(load(s + j) - most[i]);
                                store(s + j, p);
                                sum += p;
                            }
                            total[i] += sum_of(sum);
                        }
                        add_product(count, run.keys, scores, KEYS, 1,
                                    v->at + g * v->head + (start + run.from) * v->row, v->row,
                                    sums, D);
                    }
                    for (int64_t i = 0; i < count; i++) {
                        float *o = out->at + h * out->head + (n + i) * out->row;
                        for (int64_t d = 0; d < D; d++) o[d] = sums[i * D + d] / total[i];
                        lse[h * nodes + n + i] = most[i] + logf(total[i]);
                    }
                }
    }
}

/* Gradients of the same. Rows of grad_k and grad_v are D apart and zero before, with room for STEP
 * rows more behind those of each head. scratch: twice as many floats as `pack` fills. */
void attend_backward(const tree_t *tree, const heads_t *q, const heads_t *k, const heads_t *v,
                     const heads_t *out, const heads_t *grad, const heads_t *grad_q,
                     const heads_t *grad_k, const heads_t *grad_v, const float *lse,
                     int64_t nodes, float *scratch, int64_t size, int64_t first, int64_t last, int64_t group,
                     float scale) {
    float queries[QUERIES * D], grads[QUERIES * D], sums[QUERIES * D], delta[QUERIES];
    float probs[QUERIES * KEYS], scores[QUERIES * KEYS];
    float *keys = scratch, *values = scratch + size;
    for (int64_t g = first; g < last; g++) {
        pack(tree, k->at + g * k->head, k->row, keys);
        pack(tree, v->at + g * v->head, v->row, values);
        for (int64_t h = g * group; h < (g + 1) * group; h++)
            for (int64_t c = 0; c < tree->chains; c++)
                for (int64_t n = tree->first[c]; n < tree->stop[c]; n += QUERIES) {
                    int64_t own = n - tree->start[c], left = tree->stop[c] - n;
                    int64_t count = left < QUERIES ? left : QUERIES;
                    take(q, h, n, count, scale, queries);
                    take(grad, h, n, count, 1, grads);
                    memset(sums, 0, sizeof sums);
                    for (int64_t i = 0; i < count; i++) {
                        const float *o = out->at + h * out->head + (n + i) * out->row;
                        delta[i] = 0;
                        for (int64_t d = 0; d < D; d++) delta[i] += o[d] * grads[i * D + d];
                    }
                    run_t run = {c, 0, 0, 1};
                    int64_t rest = own + count;
                    while (next_run(tree, &run, &rest)) {
                        int64_t start = tree->start[run.chain], at = start + run.from;
                        int64_t length = tree->start[run.chain + 1] - start;
                        int64_t packed = tree->packed[run.chain] * D;
                        int64_t end = UP(run.keys, LANES), filled = UP(run.keys, STEP);
                        with_keys(count, queries, keys + packed, run.from, run.keys, length, probs);
                        with_keys(count, grads, values + packed, run.from, run.keys, length, scores);
                        for (int64_t i = 0; i < count; i++) {
                            float *p = probs + i * KEYS, *s = scores + i * KEYS;
                            int64_t seen = seen_by(&run, own + i);
                            for (int64_t j = seen; j < end; j++) p[j] = -INFINITY;
                            for (int64_t j = 0; j < end; j += LANES) {
                                vec x = exponential(load(p + j) - lse[h * nodes + n + i]);
                                store(p + j, x);
                                store(s + j, x * (load(s + j) - delta[i]));
                            }
                            for (int64_t j = end; j < filled; j++) p[j] = s[j] = 0;
                        }
                        add_product(run.keys, count, probs, 1, KEYS, grads, D,
                                    grad_v->at + g * grad_v->head + at * D, D);
                        add_product(run.keys, count, scores, 1, KEYS, queries, D,
                                    grad_k->at + g * grad_k->head + at * D, D);
                        add_product(count, run.keys, scores, KEYS, 1,
                                    k->at + g * k->head + at * k->row, k->row, sums, D);
                    }
                    for (int64_t i = 0; i < count; i++)
                        for (int64_t d = 0; d < D; d++)
                            grad_q->at[h * grad_q->head + (n + i) * grad_q->row + d] =
                                sums[i * D + d] * scale;
                }
    }
}
