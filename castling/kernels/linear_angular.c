/* Linear-angular attention with its convolution, forward and backward, one head at a time.

   Per head, with qn = q / |q|, kn = k / |k| and rows without a direction left zero:

       y   = own / 2 + qn (kn^T v) / pi + added
       out = y / |y| + sum over taps t of w[t] * own[token + offset(t)]

   Tensors are given by pointer and by strides of image, head and token, in floats; their last
   axis is contiguous. Nothing is allocated but small blocks on the stack. */

#include "rows.h"

#define INVERSE_PI 0.31830988618379067f

typedef struct {
  int64_t prefix, height, width; /* tokens before the grid, and the grid */
  int64_t down, across;          /* taps along both axes, odd */
} Grid;

typedef struct {
  int64_t images, heads, queries, keys;
  Grid grid; /* of the convolution, over the queries' own values */
} Shape;

DEFINE_PRODUCT(key_to_value, KEY, VALUE)
DEFINE_PRODUCT(value_to_key, VALUE, KEY)
DEFINE_OUTER(add_outer, KEY, VALUE)

static void transposed(float *to, const float *from) {
  for (int e = 0; e < KEY; e++)
    for (int f = 0; f < VALUE; f++) to[f * KEY + e] = from[e * VALUE + f];
}

/* context = kn^T v / pi */
static void contract(const Shape *shape, const Tensor *k, const Tensor *v, float *context,
                     int64_t image, int64_t head) {
  float normed[BLOCK * KEY];
  memset(context, 0, sizeof(float) * KEY * VALUE);
  for (int64_t start = 0; start < shape->keys; start += BLOCK) {
    int count = (int)MIN(BLOCK, shape->keys - start);
    for (int t = 0; t < count; t++) {
      const float *key = row(k, image, head, start + t);
      scaled(normed + t * KEY, key, inverse_norm(key, KEY), KEY);
    }
    add_outer(context, normed, KEY, row(v, image, head, start), v->token, count);
  }
  scaled(context, context, INVERSE_PI, KEY * VALUE);
}

/* Rows of q / |q| and of y before its norm, for `count` queries; the others of ROWS are zero. */
static void mixed(const Tensor *q, const Tensor *own, const Tensor *added, const float *context,
                  float *normed, float *y, int64_t image, int64_t head, int64_t start, int count) {
  for (int i = 0; i < ROWS; i++) {
    if (i >= count) {
      memset(normed + i * KEY, 0, sizeof(float) * KEY);
      memset(y + i * VALUE, 0, sizeof(float) * VALUE);
      continue;
    }
    const float *query = row(q, image, head, start + i);
    scaled(normed + i * KEY, query, inverse_norm(query, KEY), KEY);
    scaled(y + i * VALUE, row(own, image, head, start + i), 0.5f, VALUE);
    if (added->data) {
      const float *more = row(added, image, head, start + i);
      for (int c = 0; c < VALUE; c += LANES)
        store(y + i * VALUE + c, load(y + i * VALUE + c) + load(more + c));
    }
  }
  key_to_value(y, VALUE, normed, KEY, context, VALUE, ROWS);
}

/* The taps of one axis that stay inside it, as offsets `*low` to `*high` from a position. */
static inline void inside(int64_t position, int64_t size, int64_t taps, int64_t *low,
                          int64_t *high) {
  *low = MAX(-(taps / 2), -position);
  *high = MIN(taps / 2, size - 1 - position);
}

/* to += sum over taps of w[tap] * x[token + offset]; `sign` -1 runs the filter backwards. */
static inline void convolve(float *to, const Grid *grid, const Tensor *x, const float *w,
                            int64_t image, int64_t head, int64_t token, int sign) {
  int64_t place = token - grid->prefix, top, bottom, left, right;
  if (place < 0) return;
  int64_t r = place / grid->width, c = place % grid->width;
  inside(r, grid->height, grid->down, &top, &bottom);
  inside(c, grid->width, grid->across, &left, &right);
  vec sum[VALUE / LANES];
  for (int i = 0; i < VALUE / LANES; i++) sum[i] = load(to + i * LANES);
  for (int64_t dy = top; dy <= bottom; dy++)
    for (int64_t dx = left; dx <= right; dx++) {
      int64_t tap = (grid->down / 2 + sign * dy) * grid->across + grid->across / 2 + sign * dx;
      const float *other = row(x, image, head, token + dy * grid->width + dx);
      for (int i = 0; i < VALUE / LANES; i++)
        sum[i] += load(w + tap * VALUE + i * LANES) * load(other + i * LANES);
    }
  for (int i = 0; i < VALUE / LANES; i++) store(to + i * LANES, sum[i]);
}

/* x: q, k, v, own, added, out. weight: (head, tap, VALUE).
   contexts, written: (image, head, KEY, VALUE). */
void forward(const Shape *shape, const Tensor *x, const float *weight, float *contexts,
             int threads) {
  const Tensor *q = x, *k = x + 1, *v = x + 2, *own = x + 3, *added = x + 4, *out = x + 5;
  int64_t taps = shape->grid.down * shape->grid.across;
#pragma omp parallel for num_threads(threads)
  for (int64_t task = 0; task < shape->images * shape->heads; task++) {
    int64_t image = task / shape->heads, head = task % shape->heads;
    float *context = contexts + task * KEY * VALUE;
    float normed[ROWS * KEY], y[ROWS * VALUE];
    contract(shape, k, v, context, image, head);
    for (int64_t start = 0; start < shape->queries; start += ROWS) {
      int count = (int)MIN(ROWS, shape->queries - start);
      mixed(q, own, added, context, normed, y, image, head, start, count);
      for (int i = 0; i < count; i++) {
        float *to = row(out, image, head, start + i);
        scaled(to, y + i * VALUE, inverse_norm(y + i * VALUE, VALUE), VALUE);
        convolve(to, &shape->grid, own, weight + head * taps * VALUE, image, head, start + i, 1);
      }
    }
  }
}

/* dweight of one head of one image: sum over tokens of g[token] * own[token + offset]. */
static void correlate(const Grid *grid, const Tensor *g, const Tensor *own, float *dweight,
                      int64_t image, int64_t head) {
  memset(dweight, 0, sizeof(float) * grid->down * grid->across * VALUE);
  for (int64_t r = 0; r < grid->height; r++)
    for (int64_t c = 0; c < grid->width; c++) {
      int64_t token = grid->prefix + r * grid->width + c, top, bottom, left, right;
      const float *gradient = row(g, image, head, token);
      inside(r, grid->height, grid->down, &top, &bottom);
      inside(c, grid->width, grid->across, &left, &right);
      for (int64_t dy = top; dy <= bottom; dy++)
        for (int64_t dx = left; dx <= right; dx++) {
          float *to = dweight +
                      ((grid->down / 2 + dy) * grid->across + grid->across / 2 + dx) * VALUE;
          const float *other = row(own, image, head, token + dy * grid->width + dx);
          for (int i = 0; i < VALUE; i += LANES)
            store(to + i, load(to + i) + load(gradient + i) * load(other + i));
        }
    }
}

/* to = (x - n (n . x)) / |row|: the gradient through n = row / |row|. */
static inline void through_norm(float *to, const float *x, const float *n, float inverse,
                                int size) {
  float along = dot(x, n, size);
  for (int c = 0; c < size; c += LANES)
    store(to + c, (load(x + c) - load(n + c) * along) * inverse);
}

/* x: q, k, v, own, added, the gradient of out; written: those of q, k, v, own and added. Where a
   query's own value is its key's, own is given as v, and v's gradient as own's: it is the sum.
   dweight, written: (image, head, tap, VALUE). */
void backward(const Shape *shape, const Tensor *x, const float *weight, const float *contexts,
              float *dweight, int threads) {
  const Tensor *q = x, *k = x + 1, *v = x + 2, *own = x + 3, *added = x + 4, *g = x + 5;
  const Tensor *dq = x + 6, *dk = x + 7, *dv = x + 8, *down = x + 9, *dadded = x + 10;
  int64_t taps = shape->grid.down * shape->grid.across;
  int shared = down->data == dv->data;
#pragma omp parallel for num_threads(threads)
  for (int64_t task = 0; task < shape->images * shape->heads; task++) {
    int64_t image = task / shape->heads, head = task % shape->heads;
    const float *context = contexts + task * KEY * VALUE;
    float turned[VALUE * KEY], dcontext[KEY * VALUE];
    float normed[BLOCK * KEY], dy[BLOCK * VALUE], y[ROWS * VALUE], dnormed[ROWS * KEY];
    memset(dcontext, 0, sizeof dcontext);
    transposed(turned, context);
    for (int64_t start = 0; start < shape->queries; start += BLOCK) {
      int block = (int)MIN(BLOCK, shape->queries - start);
      for (int first = 0; first < block; first += ROWS) {
        int count = MIN(ROWS, block - first);
        int64_t at = start + first;
        float *n = normed + first * KEY, *d = dy + first * VALUE;
        mixed(q, own, added, context, n, y, image, head, at, count);
        memset(d, 0, sizeof(float) * ROWS * VALUE);
        memset(dnormed, 0, sizeof dnormed);
        for (int i = 0; i < count; i++) {
          float inverse = inverse_norm(y + i * VALUE, VALUE);
          scaled(y + i * VALUE, y + i * VALUE, inverse, VALUE);
          through_norm(d + i * VALUE, row(g, image, head, at + i), y + i * VALUE, inverse, VALUE);
          float *to = row(down, image, head, at + i);
          scaled(to, d + i * VALUE, 0.5f, VALUE);
          convolve(to, &shape->grid, g, weight + head * taps * VALUE, image, head, at + i, -1);
          if (dadded->data) memcpy(row(dadded, image, head, at + i), d + i * VALUE, 4 * VALUE);
        }
        value_to_key(dnormed, KEY, d, VALUE, turned, KEY, ROWS);
        for (int i = 0; i < count; i++)
          through_norm(row(dq, image, head, at + i), dnormed + i * KEY, n + i * KEY,
                       inverse_norm(row(q, image, head, at + i), KEY), KEY);
      }
      add_outer(dcontext, normed, KEY, dy, VALUE, block);
    }
    scaled(dcontext, dcontext, INVERSE_PI, KEY * VALUE);
    transposed(turned, dcontext);
    for (int64_t start = 0; start < shape->keys; start += ROWS) {
      int count = (int)MIN(ROWS, shape->keys - start);
      memset(dnormed, 0, sizeof dnormed);
      memset(normed, 0, sizeof(float) * ROWS * KEY);
      memset(y, 0, sizeof y);
      memset(dy, 0, sizeof(float) * ROWS * VALUE);
      for (int i = 0; i < count; i++) {
        const float *key = row(k, image, head, start + i);
        scaled(normed + i * KEY, key, inverse_norm(key, KEY), KEY);
        memcpy(y + i * VALUE, row(v, image, head, start + i), 4 * VALUE);
        if (shared) memcpy(dy + i * VALUE, row(dv, image, head, start + i), 4 * VALUE);
      }
      value_to_key(dnormed, KEY, y, VALUE, turned, KEY, ROWS);
      key_to_value(dy, VALUE, normed, KEY, dcontext, VALUE, ROWS);
      for (int i = 0; i < count; i++) {
        through_norm(row(dk, image, head, start + i), dnormed + i * KEY, normed + i * KEY,
                     inverse_norm(row(k, image, head, start + i), KEY), KEY);
        memcpy(row(dv, image, head, start + i), dy + i * VALUE, 4 * VALUE);
      }
    }
    correlate(&shape->grid, g, own, dweight + task * taps * VALUE, image, head);
  }
}
