/* Masked softmax attention S v, forward and backward, one head at a time.

   Per head, with p = softmax(q k^T scale) and s = p where p > threshold, else 0:

       out = s v

   and with g the gradient of out, a = g v^T where s > 0, else 0, d = sum of s a per query, and
   l = p (a - d):

       dq = l k scale, dk = l^T q scale, dv = s^T g

   A query none of whose keys survives gives nothing to any of them, and one has survivors only
   where 1 / threshold exceeds its sum of exponentials: the others cost one product, most often
   not even their exponentials. Of a query three numbers are kept, its largest logit, the inverse
   of that sum (zero without survivors) and the survivors; nothing of queries x keys is.

   TILE queries lie side by side in the lanes, so that maxima and sums need no lane but their own.
   Comparisons are written so that what is not a number stays so. Where one p is 1, as of large
   inputs, a - d is exactly 0, as d is the sum of the very numbers that it is taken from: as the
   sum of g * out, rounded otherwise, it would leave a rest of a's rounding.

   Tensors are given by pointer and by strides of image, head and token, in floats; their last
   axis is contiguous. */

#include "rows.h"

#ifdef _OPENMP
#include <omp.h>
#else
#define omp_get_thread_num() 0
#endif

#define TILE MIN(WIDEST, 4 * LANES)
#define KEPT 3 /* numbers per query */
#define KEYS_PER_LOOK 16 /* exponentials summed before looking whether any query can survive */
#define SMALLEST_EXPONENT (-87.0f)
#define INVERSE_LN2 1.44269504088896341f
#define LN2 0.69314718055994531f

typedef struct {
  int64_t images, heads, queries, keys;
} Shape;

DEFINE_PRODUCT(logits_of, KEY, TILE)
DEFINE_PRODUCT(dsurviving_of, VALUE, TILE)
DEFINE_PRODUCT(add_dv, TILE, VALUE)
DEFINE_PRODUCT(add_dk, TILE, KEY)
DEFINE_OUTER(add_values, TILE, VALUE)
DEFINE_OUTER(add_dq, TILE, KEY)

/* Queries whose logits one thread works on, for the caller to make room. */
int queries_at_a_time(void) { return TILE; }

/* exp of x <= 0: 2^n times a polynomial in the rest, to within two units in the last place; 0
   where float32 has no room for the result. */
static inline vec exponential(vec x) {
  const vec zero = {0}, smallest = zero + SMALLEST_EXPONENT;
  ivec vanishes = x < smallest;
  x = chosen(vanishes, smallest, x);
  ivec n = __builtin_convertvector(x * INVERSE_LN2 - 0.5f, ivec);
  vec r = x - __builtin_convertvector(n, vec) * LN2;
  vec series = zero + 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  return chosen(vanishes, zero, series * (vec)((n + 127) << 23));
}

/* Rows side by side: to[e][i] = scale * rows[i][e]; lanes past `count` are zero. */
static void side_by_side(float *to, const float *const *rows, int count, float scale, int size) {
  memset(to, 0, sizeof(float) * (size_t)size * TILE);
  for (int i = 0; i < count; i++)
    for (int e = 0; e < size; e++) to[e * TILE + i] = scale * rows[i][e];
}

/* logits (keys x TILE) of the queries side by side, and the largest of each. */
static void measure(float *logits, float *largest, const Tensor *k, const float *queries,
                    int64_t keys, int64_t image, int64_t head) {
  for (int i = 0; i < TILE; i++) largest[i] = -INFINITY;
  for (int64_t t = 0; t < keys; t += ROWS) {
    int count = (int)MIN(ROWS, keys - t);
    float *to = logits + t * TILE;
    memset(to, 0, sizeof(float) * (size_t)count * TILE);
    logits_of(to, TILE, row(k, image, head, t), k->token, queries, TILE, count);
    for (int r = 0; r < count; r++)
      for (int i = 0; i < TILE; i += LANES) {
        vec logit = load(to + r * TILE + i), so_far = load(largest + i);
        store(largest + i, chosen(logit > so_far, logit, so_far));
      }
  }
}

/* Sums of the logits' exponentials, which take their place; whether any stays below `most`. */
static int exponentials(float *logits, float *sum, const float *largest, int64_t keys,
                        float most) {
  memset(sum, 0, sizeof(float) * TILE);
  for (int64_t start = 0; start < keys; start += KEYS_PER_LOOK) {
    for (int64_t t = start; t < MIN(start + KEYS_PER_LOOK, keys); t++)
      for (int i = 0; i < TILE; i += LANES) {
        vec power = exponential(load(logits + t * TILE + i) - load(largest + i));
        store(logits + t * TILE + i, power);
        store(sum + i, load(sum + i) + power);
      }
    int below = 0;
    for (int i = 0; i < TILE; i++) below += !(sum[i] >= most);
    if (!below) return 0;
  }
  return 1;
}

/* x: q, k, v, out. kept, written: (image, head, query, KEPT). logits: (thread, key, TILE) to work. */
void forward(const Shape *shape, const Tensor *x, float threshold, float *kept, float *logits,
             int threads) {
  const Tensor *q = x, *k = x + 1, *v = x + 2, *out = x + 3;
  const float scale = 1.0f / sqrtf(KEY);
  const vec zero = {0};
#pragma omp parallel for num_threads(threads)
  for (int64_t task = 0; task < shape->images * shape->heads; task++) {
    int64_t image = task / shape->heads, head = task % shape->heads;
    float *own = logits + omp_get_thread_num() * shape->keys * TILE;
    float queries[KEY * TILE], largest[TILE], sum[TILE], survivors[TILE], mixed[TILE * VALUE];
    const float *rows[TILE];
    for (int64_t start = 0; start < shape->queries; start += TILE) {
      int count = (int)MIN(TILE, shape->queries - start), alive = 0;
      for (int i = 0; i < count; i++) rows[i] = row(q, image, head, start + i);
      side_by_side(queries, rows, count, scale, KEY);
      measure(own, largest, k, queries, shape->keys, image, head);
      if (exponentials(own, sum, largest, shape->keys, 1.0f / threshold)) {
        for (int i = 0; i < TILE; i++) sum[i] = 1.0f / sum[i];
        for (int i = 0; i < count; i++) alive += !(sum[i] <= threshold);
      }
      float *note = kept + KEPT * (task * shape->queries + start);
      memset(note, 0, sizeof(float) * KEPT * (size_t)count);
      memset(mixed, 0, sizeof mixed);
      if (alive) {
        memset(survivors, 0, sizeof survivors);
        for (int64_t t = 0; t < shape->keys; t++)
          for (int i = 0; i < TILE; i += LANES) {
            vec p = load(own + t * TILE + i) * load(sum + i);
            ivec fallen = p <= zero + threshold;
            store(own + t * TILE + i, chosen(fallen, zero, p));
            store(survivors + i, load(survivors + i) + chosen(fallen, zero, zero + 1.0f));
          }
        for (int64_t t = 0; t < shape->keys; t += BLOCK)
          add_values(mixed, own + t * TILE, TILE, row(v, image, head, t), v->token,
                    (int)MIN(BLOCK, shape->keys - t));
        for (int i = 0; i < count; i++)
          if (!(sum[i] <= threshold)) {
            note[KEPT * i] = largest[i];
            note[KEPT * i + 1] = sum[i];
            note[KEPT * i + 2] = survivors[i];
          }
      }
      for (int i = 0; i < count; i++)
        memcpy(row(out, image, head, start + i), mixed + i * VALUE, sizeof(float) * VALUE);
    }
  }
}

/* Up to TILE queries with survivors, and what of them the backward pass needs. */
typedef struct {
  float q[TILE * KEY], g[TILE * VALUE];             /* rows; of q, scaled */
  float q_aside[KEY * TILE], g_aside[VALUE * TILE]; /* the same, side by side */
  float largest[TILE], inverse[TILE], along[TILE];  /* along: d, the sum of s a */
  float dq[TILE * KEY];
  int64_t place[TILE];
  int count;
} Queries;

/* Gather the next queries that have survivors, from `start` on; return where to go on. */
static int64_t gather(Queries *to, const Shape *shape, const Tensor *q, const Tensor *g,
                      const float *kept, float scale, int64_t start, int64_t image,
                      int64_t head) {
  const float *q_rows[TILE], *g_rows[TILE];
  memset(to, 0, sizeof *to);
  for (; start < shape->queries && to->count < TILE; start++) {
    if (kept[KEPT * start + 1] == 0.0f) continue;
    int i = to->count++;
    to->place[i] = start;
    to->largest[i] = kept[KEPT * start];
    to->inverse[i] = kept[KEPT * start + 1];
    q_rows[i] = row(q, image, head, start);
    g_rows[i] = row(g, image, head, start);
    scaled(to->q + i * KEY, q_rows[i], scale, KEY);
    memcpy(to->g + i * VALUE, g_rows[i], sizeof(float) * VALUE);
  }
  side_by_side(to->q_aside, q_rows, to->count, scale, KEY);
  side_by_side(to->g_aside, g_rows, to->count, 1.0f, VALUE);
  return start;
}

/* p and a of all keys and of the queries gathered, each (keys x TILE); d; and dv, added to. */
static void probabilities(float *p, float *a, Queries *some, const Shape *shape, const Tensor *k,
                          const Tensor *v, const Tensor *dv, float threshold, int64_t image,
                          int64_t head) {
  const vec zero = {0};
  float surviving[ROWS * TILE];
  memset(p, 0, sizeof(float) * (size_t)shape->keys * TILE);
  memset(a, 0, sizeof(float) * (size_t)shape->keys * TILE);
  for (int64_t at = 0; at < shape->keys; at += ROWS) {
    int count = (int)MIN(ROWS, shape->keys - at);
    float *to = p + at * TILE, *along = a + at * TILE;
    vec any = zero;
    logits_of(to, TILE, row(k, image, head, at), k->token, some->q_aside, TILE, count);
    for (int r = 0; r < count; r++)
      for (int i = 0; i < TILE; i += LANES) {
        vec logit = load(to + r * TILE + i) - load(some->largest + i);
        vec power = exponential(logit) * load(some->inverse + i);
        vec s = chosen(power <= zero + threshold, zero, power);
        store(to + r * TILE + i, power);
        store(surviving + r * TILE + i, s);
        any += s;
      }
    if (total(any) <= 0.0f) continue;
    dsurviving_of(along, TILE, row(v, image, head, at), v->token, some->g_aside, TILE, count);
    for (int r = 0; r < count; r++)
      for (int i = 0; i < TILE; i += LANES) {
        vec s = load(surviving + r * TILE + i), d = load(along + r * TILE + i);
        d = chosen(load(to + r * TILE + i) <= zero + threshold, zero, d);
        store(along + r * TILE + i, d);
        store(some->along + i, load(some->along + i) + s * d);
      }
    add_dv(row(dv, image, head, at), dv->token, surviving, TILE, some->g, VALUE, count);
  }
}

/* x: q, k, v, the gradient of out; those of q, k and v are added to.
   room: (thread, 2, key, TILE) to work. */
void backward(const Shape *shape, const Tensor *x, float threshold, const float *kept, float *room,
              int threads) {
  const Tensor *q = x, *k = x + 1, *v = x + 2, *g = x + 3;
  const Tensor *dq = x + 4, *dk = x + 5, *dv = x + 6;
  const float scale = 1.0f / sqrtf(KEY);
#pragma omp parallel for num_threads(threads)
  for (int64_t task = 0; task < shape->images * shape->heads; task++) {
    int64_t image = task / shape->heads, head = task % shape->heads, next = 0;
    float *p = room + omp_get_thread_num() * 2 * shape->keys * TILE, *a = p + shape->keys * TILE;
    Queries some;
    while (next < shape->queries) {
      next = gather(&some, shape, q, g, kept + KEPT * task * shape->queries, scale, next, image,
                    head);
      if (!some.count) break;
      probabilities(p, a, &some, shape, k, v, dv, threshold, image, head);
      for (int64_t start = 0; start < shape->keys; start += BLOCK) {
        int block = (int)MIN(BLOCK, shape->keys - start);
        float *dlogits = p + start * TILE;
        for (int r = 0; r < block; r++)
          for (int i = 0; i < TILE; i += LANES) {
            vec beyond = load(a + (start + r) * TILE + i) - load(some.along + i);
            store(dlogits + r * TILE + i, load(dlogits + r * TILE + i) * beyond);
          }
        for (int first = 0; first < block; first += ROWS)
          add_dk(row(dk, image, head, start + first), dk->token, dlogits + first * TILE, TILE,
                 some.q, KEY, MIN(ROWS, block - first));
        add_dq(some.dq, dlogits, TILE, row(k, image, head, start), k->token, block);
      }
      for (int i = 0; i < some.count; i++) {
        float *to = row(dq, image, head, some.place[i]);
        for (int c = 0; c < KEY; c += LANES)
          store(to + c, load(to + c) + load(some.dq + i * KEY + c) * scale);
      }
    }
  }
}
