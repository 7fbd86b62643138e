/* Exact attention over a token tree, forward and backward, for one head width (HEAD_DIM by -D).
 *
 * Nodes lie in depth-first order and make chains; a node sees its own chain up to itself and, of
 * each chain above, what lies before the branching point. A block of queries of one chain therefore
 * meets a few runs of keys, each from a chain's start on. Softmax is taken online, and computed
 * again on the way back from its log-sum-exp (FlashAttention, arXiv 2205.14135).
 *
 * Numbers are float32. With -DHALF, where the processor multiplies bf16 numbers in pairs, products
 * take their operands rounded to bf16 and add up in float32, as GPUs do. Everything is
 * single-threaded; the caller gives each thread heads of its own. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "exponential.h"

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

/* Products go along their inner dimension by units: a number, or two that are neighbours there. */
#if defined(HALF) && defined(__AVX512BF16__)
#include <immintrin.h>
#define PAIR 2
typedef uint32_t unit;
typedef uint32_t units __attribute__((vector_size(LANES * sizeof(uint32_t)), aligned(4)));

INLINE __m512i halves(vec v) { /* bf16, each in the lower half of its lane */
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
}
INLINE units pair(vec low, vec high) {
    return (units)_mm512_or_si512(halves(low), _mm512_slli_epi32(halves(high), 16));
}
INLINE void store_line(unit *to, vec v) { /* LANES neighbours */
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
INLINE vec add_product_of(vec sum, unit one, units line) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(one), (__m512bh)line);
}
#else
#define PAIR 1
typedef float unit;
typedef vec units;

INLINE units pair(vec low, vec high) { return (void)high, low; }
INLINE void store_line(unit *to, vec v) { store(to, v); }
INLINE vec add_product_of(vec sum, unit one, units line) { return sum + one * line; }
#endif

INLINE vec choose(ints where, vec a, vec b) {
    return (vec)((where & (ints)a) | (~where & (ints)b));
}

INLINE vec exponentials(vec x) { /* 0 below -87 */
    vec low = choose(x < -87.0f, (vec){} - 87.0f, x);
    vec n = low * LOG2_E + 12582912.0f; /* rounds: 1.5 * 2^23 */
    ints two_n = (((ints)n) << 23) + (127 << 23);
    n -= 12582912.0f;
    vec f = REMAINDER(low, n);
    return choose(x < -87.0f, (vec){}, EXP_NEAR_0(f) * (vec)two_n);
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

/* c (rows, vectors) = or += a (rows, k units) b (k units, vectors): a's rows are `down` units apart
 * and its columns `across`. */
INLINE void tile(int rows, int vectors, int add, int64_t k, const unit *a, int64_t down,
                 int64_t across, const unit *b, int64_t b_row, float *c, int64_t c_row) {
    vec sums[12][WIDE];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sums[i][v] = add ? load(c + i * c_row + v * LANES) : (vec){};
    for (int64_t at = 0; at < k; at++) {
        units line[WIDE];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) line[v] = *(const units *)(b + at * b_row + v * LANES);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            unit one = a[i * down + at * across];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[i][v] = add_product_of(sums[i][v], one, line[v]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(c + i * c_row + v * LANES, sums[i][v]);
}

/* A panel of up to WIDE vectors of c; `rows` is filled up to a multiple of ROWS. */
INLINE void panel(int64_t rows, int vectors, int add, int64_t k, const unit *a, int64_t down,
                  int64_t across, const unit *b, int64_t b_row, float *c, int64_t c_row) {
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

/* c (rows, D) += a (rows, k units) b (k units, D). */
static void add_product(int64_t rows, int64_t k, const unit *a, int64_t down, int64_t across,
                        const unit *b, float *c) {
    for (int64_t d = 0; d < D; d += PANEL)
        panel(rows, (D - d < PANEL ? D - d : PANEL) / LANES, 1, k, a, down, across, b + d, D, c + d,
              D);
}

/* A tree's chains: chain c is nodes start[c] .. start[c + 1]; its parent chain is up[c] (-1: none),
 * of which it sees the first seen[c] nodes. Nodes first[c] .. stop[c] of it attend. packed[c] is
 * where its keys begin in what `pack_columns` and `pack_rows` make. */
typedef struct {
    int64_t chains;
    const int64_t *start, *up, *seen, *first, *stop, *packed;
} tree_t;

/* Rows of one head, two side by side: (rows / PAIR, D units). */
INLINE void stack(const float *x, int64_t row, int64_t rows, float scale, unit *into) {
    for (int64_t i = 0; i < rows; i += PAIR)
        for (int64_t d = 0; d < D; d += LANES) {
            vec low = load(x + i * row + d) * scale;
            vec high = i + 1 < rows ? load(x + (i + 1) * row + d) * scale : (vec){};
            *(units *)(into + i / PAIR * D + d) = pair(low, high);
        }
}

/* Rows as they are: (rows, D / PAIR units). */
INLINE void line_up(const float *x, int64_t row, int64_t rows, float scale, unit *into) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t d = 0; d < D; d += LANES)
            store_line(into + (i * D + d) / PAIR, load(x + i * row + d) * scale);
}

/* All keys (or values) of one head as `stack` makes them, chain by chain. */
static void pack_rows(const tree_t *tree, const float *x, int64_t row, unit *into) {
    for (int64_t c = 0; c < tree->chains; c++)
        stack(x + tree->start[c] * row, row, tree->start[c + 1] - tree->start[c], 1,
              into + tree->packed[c] / PAIR * D);
}

/* The same as columns, each chain's in panels (D / PAIR units, up to PANEL). What fills up a
 * chain's last panel is zero. */
static void pack_columns(const tree_t *tree, const float *x, int64_t row, unit *into) {
    unit line[D / PAIR];
    for (int64_t c = 0; c < tree->chains; c++) {
        int64_t length = tree->start[c + 1] - tree->start[c];
        for (int64_t p = 0; p < length; p += PANEL) {
            const float *from = x + (tree->start[c] + p) * row;
            unit *to = into + (tree->packed[c] + p) * (D / PAIR);
            int64_t here = length - p < PANEL ? length - p : PANEL, width = UP(here, LANES);
            for (int64_t i = 0; i < width; i++) {
                if (i < here) line_up(from + i * row, row, 1, 1, line);
                if (i == here) memset(line, 0, sizeof line);
                for (int64_t u = 0; u < D / PAIR; u++) to[u * width + i] = line[u];
            }
        }
    }
}

/* c (rows, `keys` of the chain from `from` on) = a (rows, D) times columns. `from` is a multiple of
 * PANEL. */
static void with_keys(int64_t rows, const unit *a, const unit *columns, int64_t from, int64_t keys,
                      int64_t length, float *c) {
    for (int64_t p = 0; p < keys; p += PANEL) {
        int64_t left = length - from - p, here = keys - p;
        int64_t width = left < PANEL ? UP(left, LANES) : PANEL;
        int64_t vectors = here < PANEL ? UP(here, LANES) / LANES : WIDE;
        panel(rows, vectors, 0, D / PAIR, a, D / PAIR, 1, columns + (from + p) * (D / PAIR), width,
              c + p, KEYS);
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

INLINE float *row_of(const heads_t *x, int64_t head, int64_t n) {
    return x->at + head * x->head + n * x->row;
}

/* Softmax of a block's scores with one run of keys, taken up into what was before: each query's
 * largest score, the sum of its probabilities and of the values by them, as they are to the largest
 * score so far. The run's probabilities go to `probs`. */
INLINE void soften(const run_t *run, int64_t own, int64_t count, float *scores, unit *probs,
                   float *most, float *total, float *sums) {
    for (int64_t i = 0; i < count; i++) {
        float *s = scores + i * KEYS;
        int64_t end = UP(run->keys, LANES);
        for (int64_t j = seen_by(run, own + i); j < end; j++) s[j] = -INFINITY;
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
            vec p = exponentials(load(s + j) - most[i]);
            store_line(probs + (i * KEYS + j) / PAIR, p);
            sum += p;
        }
        total[i] += sum_of(sum);
    }
}

/* Attention of the query heads of key heads first .. last - 1, `group` each. lse is (heads, nodes);
 * nodes behind the last chain are nobody's. scratch: twice `size` floats, D for each packed key. */
void attend(const tree_t *tree, const heads_t *q, const heads_t *k, const heads_t *v,
            const heads_t *out, float *lse, int64_t nodes, unit *scratch, int64_t size,
            int64_t first, int64_t last, int64_t group, float scale) {
    unit queries[QUERIES * D], *keys = scratch, *values = scratch + size;
    float sums[QUERIES * D], scores[QUERIES * KEYS], most[QUERIES], total[QUERIES];
#if PAIR == 2
    unit probs[QUERIES * KEYS / PAIR];
#else
    unit *probs = scores;
#endif
    memset(queries, 0, sizeof queries);
    for (int64_t g = first; g < last; g++) {
        pack_columns(tree, row_of(k, g, 0), k->row, keys);
        pack_rows(tree, row_of(v, g, 0), v->row, values);
        for (int64_t h = g * group; h < (g + 1) * group; h++)
            for (int64_t c = 0; c < tree->chains; c++)
                for (int64_t n = tree->first[c]; n < tree->stop[c]; n += QUERIES) {
                    int64_t own = n - tree->start[c], left = tree->stop[c] - n;
                    int64_t count = left < QUERIES ? left : QUERIES, rest = own + count;
                    line_up(row_of(q, h, n), q->row, count, scale, queries);
                    memset(sums, 0, sizeof sums);
                    for (int i = 0; i < count; i++) most[i] = -INFINITY, total[i] = 0;
                    for (run_t run = {c, 0, 0, 1}; next_run(tree, &run, &rest);) {
                        int64_t length = tree->start[run.chain + 1] - tree->start[run.chain];
                        int64_t packed = tree->packed[run.chain];
                        with_keys(count, queries, keys + packed * (D / PAIR), run.from, run.keys,
                                  length, scores);
                        soften(&run, own, count, scores, probs, most, total, sums);
                        add_product(count, UP(run.keys, PAIR) / PAIR, probs, KEYS / PAIR, 1,
                                    values + (packed + run.from) / PAIR * D, sums);
                    }
                    for (int64_t i = 0; i < count; i++) {
                        float *o = row_of(out, h, n + i);
                        for (int64_t d = 0; d < D; d++) o[d] = sums[i * D + d] / total[i];
                        lse[h * nodes + n + i] = most[i] + logf(total[i]);
                    }
                }
    }
}

/* From a block's scores and the products of its gradients with values to probabilities and the
 * scores' gradients: both (count / PAIR, KEYS units), two queries side by side, and the latter as
 * `across` too, (count, KEYS / PAIR units). */
INLINE void soften_backward(const run_t *run, int64_t own, int64_t count, const float *lse,
                            const float *delta, float *scores, float *products, unit *probs,
                            unit *grads, unit *across) {
    int64_t end = UP(run->keys, LANES);
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = seen_by(run, own + i); j < end; j++) scores[i * KEYS + j] = -INFINITY;
    for (int64_t i = 0; i < count; i += PAIR) {
        int64_t to = i / PAIR * KEYS;
        for (int64_t j = 0; j < end; j += LANES) {
            vec p[2] = {}, s[2] = {};
            for (int r = 0; r < PAIR; r++) {
                if (i + r == count) break;
                int64_t at = (i + r) * KEYS + j;
                p[r] = exponentials(load(scores + at) - lse[i + r]);
                s[r] = p[r] * (load(products + at) - delta[i + r]);
                if (PAIR == 2) store_line(across + at / PAIR, s[r]);
            }
            *(units *)(probs + to + j) = pair(p[0], p[1]);
            *(units *)(grads + to + j) = pair(s[0], s[1]);
        }
        for (int64_t j = end; j < UP(run->keys, STEP); j++) probs[to + j] = grads[to + j] = 0;
    }
}

/* Gradients of the same. Rows of grad_k and grad_v are D apart and zero before, with room for STEP
 * rows more behind those of each head. scratch: three times `size` floats. */
void attend_backward(const tree_t *tree, const heads_t *q, const heads_t *k, const heads_t *v,
                     const heads_t *out, const heads_t *grad, const heads_t *grad_q,
                     const heads_t *grad_k, const heads_t *grad_v, const float *lse, int64_t nodes,
                     unit *scratch, int64_t size, int64_t first, int64_t last, int64_t group,
                     float scale) {
    unit queries[QUERIES * D], grads[QUERIES * D];
    float sums[QUERIES * D], delta[QUERIES], scores[QUERIES * KEYS], products[QUERIES * KEYS];
    unit *keys = scratch, *values = scratch + size, *key_rows = scratch + 2 * size;
#if PAIR == 2 /* the same once more, two queries side by side */
    unit query_pairs[QUERIES * D / PAIR], grad_pairs[QUERIES * D / PAIR];
    unit probs[QUERIES * KEYS / PAIR], score_grads[QUERIES * KEYS / PAIR];
    unit across[QUERIES * KEYS / PAIR];
#else
    unit *query_pairs = queries, *grad_pairs = grads;
    unit *probs = scores, *score_grads = products, *across = products;
#endif
    memset(queries, 0, sizeof queries);
    memset(grads, 0, sizeof grads);
    for (int64_t g = first; g < last; g++) {
        pack_columns(tree, row_of(k, g, 0), k->row, keys);
        pack_columns(tree, row_of(v, g, 0), v->row, values);
        pack_rows(tree, row_of(k, g, 0), k->row, key_rows);
        for (int64_t h = g * group; h < (g + 1) * group; h++)
            for (int64_t c = 0; c < tree->chains; c++)
                for (int64_t n = tree->first[c]; n < tree->stop[c]; n += QUERIES) {
                    int64_t own = n - tree->start[c], left = tree->stop[c] - n;
                    int64_t count = left < QUERIES ? left : QUERIES, rest = own + count;
                    int64_t pairs = UP(count, PAIR) / PAIR;
                    line_up(row_of(q, h, n), q->row, count, scale, queries);
                    line_up(row_of(grad, h, n), grad->row, count, 1, grads);
                    if (PAIR == 2) stack(row_of(q, h, n), q->row, count, scale, query_pairs);
                    if (PAIR == 2) stack(row_of(grad, h, n), grad->row, count, 1, grad_pairs);
                    memset(sums, 0, sizeof sums);
                    for (int64_t i = 0; i < count; i++) {
                        const float *o = row_of(out, h, n + i), *to = row_of(grad, h, n + i);
                        vec sum = {};
                        for (int64_t d = 0; d < D; d += LANES) sum += load(o + d) * load(to + d);
                        delta[i] = sum_of(sum);
                    }
                    for (run_t run = {c, 0, 0, 1}; next_run(tree, &run, &rest);) {
                        int64_t at = tree->start[run.chain] + run.from;
                        int64_t length = tree->start[run.chain + 1] - tree->start[run.chain];
                        int64_t packed = tree->packed[run.chain];
                        with_keys(count, queries, keys + packed * (D / PAIR), run.from, run.keys,
                                  length, scores);
                        with_keys(count, grads, values + packed * (D / PAIR), run.from, run.keys,
                                  length, products);
                        soften_backward(&run, own, count, lse + h * nodes + n, delta, scores,
                                        products, probs, score_grads, across);
                        add_product(run.keys, pairs, probs, 1, KEYS, grad_pairs,
                                    row_of(grad_v, g, at));
                        add_product(run.keys, pairs, score_grads, 1, KEYS, query_pairs,
                                    row_of(grad_k, g, at));
                        add_product(count, UP(run.keys, PAIR) / PAIR, across, KEYS / PAIR, 1,
                                    key_rows + (packed + run.from) / PAIR * D, sums);
                    }
                    for (int64_t i = 0; i < count; i++)
                        for (int64_t d = 0; d < D; d++)
                            row_of(grad_q, h, n + i)[d] = sums[i * D + d] * scale;
                }
    }
}
