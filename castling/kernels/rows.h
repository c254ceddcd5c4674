/* Rows of numbers, and the small products of which the kernels are made.

   KEY and VALUE, the channels of keys and values per head, are compile-time multiples of 4. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && KEY % 16 == 0 && VALUE % 16 == 0
#define LANES 16
#define REGISTERS 24
#elif defined(__AVX__) && KEY % 8 == 0 && VALUE % 8 == 0
#define LANES 8
#define REGISTERS 12
#else
#define LANES 4
#define REGISTERS 12
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));

#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define WIDEST MAX(KEY, VALUE)
#define ROWS MAX(1, MIN(8, REGISTERS / (WIDEST / LANES))) /* of a product held in registers */
#define BLOCK (8 * ROWS)                                  /* tokens whose rows stay in the cache */
#define SMALLEST_SQUARED_NORM 1e-24f
#if defined(__x86_64__)
#define HOLD(x) __asm__("" : "+v"(x)) /* in a register, not read from memory at every use */
#else
#define HOLD(x)
#endif
#define INLINE static inline __attribute__((always_inline))

typedef struct {
  float *data; /* NULL where there is none */
  int64_t image, head, token;
} Tensor;

static inline vec load(const float *from) { return *(const vec *)from; }
static inline void store(float *to, vec x) { *(vec *)to = x; }

/* Lanes of a where the mask is set, and of b elsewhere. */
static inline vec chosen(ivec mask, vec a, vec b) {
  return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

static inline float total(vec x) {
  float sum = 0.0f;
  for (int i = 0; i < LANES; i++) sum += x[i];
  return sum;
}

static inline float dot(const float *a, const float *b, int size) {
  vec sum = {0};
  for (int c = 0; c < size; c += LANES) sum += load(a + c) * load(b + c);
  return total(sum);
}

static inline float inverse_norm(const float *row, int size) {
  float squared = dot(row, row, size);
  return squared > SMALLEST_SQUARED_NORM ? 1.0f / sqrtf(squared) : 0.0f;
}

static inline void scaled(float *to, const float *from, float factor, int size) {
  for (int c = 0; c < size; c += LANES) store(to + c, load(from + c) * factor);
}

static inline float *row(const Tensor *x, int64_t image, int64_t head, int64_t token) {
  return x->data + image * x->image + head * x->head + token * x->token;
}

INLINE void fetch(vec *to, const float *from, int width) {
  for (int c = 0; c < width / LANES; c++) {
    to[c] = load(from + c * LANES);
    HOLD(to[c]);
  }
}

INLINE void product(float *y, int64_t y_step, const float *a, int64_t a_step, const float *b,
                    int64_t b_step, int count, int depth, int width) {
  vec sum[ROWS][WIDEST / LANES], other[WIDEST / LANES];
  for (int i = 0; i < count; i++)
    for (int c = 0; c < width / LANES; c++) sum[i][c] = load(y + i * y_step + c * LANES);
  for (int e = 0; e < depth; e++) {
    fetch(other, b + e * b_step, width);
    for (int i = 0; i < count; i++)
      for (int c = 0; c < width / LANES; c++) sum[i][c] += a[i * a_step + e] * other[c];
  }
  for (int i = 0; i < count; i++)
    for (int c = 0; c < width / LANES; c++) store(y + i * y_step + c * LANES, sum[i][c]);
}

INLINE void outer(float *y, const float *a, int64_t a_step, const float *b, int64_t b_step,
                  int count, int rows, int width) {
  vec sum[ROWS][WIDEST / LANES], other[WIDEST / LANES];
  for (int i = 0; i < rows; i++)
    for (int c = 0; c < width / LANES; c++) sum[i][c] = load(y + i * width + c * LANES);
  for (int t = 0; t < count; t++) {
    fetch(other, b + t * b_step, width);
    for (int i = 0; i < rows; i++)
      for (int c = 0; c < width / LANES; c++) sum[i][c] += a[t * a_step + i] * other[c];
  }
  for (int i = 0; i < rows; i++)
    for (int c = 0; c < width / LANES; c++) store(y + i * width + c * LANES, sum[i][c]);
}

/* Products are defined per depth and width, and called: inlined into one another, their loops run
   out of registers. Rows are `_step` numbers apart. */

/* NAME(y, ., a, ., b, ., count): y[i] += a[i] B for up to ROWS rows; B is DEPTH x WIDTH. */
#define DEFINE_PRODUCT(NAME, DEPTH, WIDTH)                                                        \
  static __attribute__((noinline)) void NAME(float *y, int64_t y_step, const float *a,            \
                                             int64_t a_step, const float *b, int64_t b_step,      \
                                             int count) {                                         \
    if (count == ROWS) {                                                                          \
      product(y, y_step, a, a_step, b, b_step, ROWS, DEPTH, WIDTH);                               \
      return;                                                                                     \
    }                                                                                             \
    for (int i = 0; i < count; i++)                                                               \
      product(y + i * y_step, y_step, a + i * a_step, a_step, b, b_step, 1, DEPTH, WIDTH);        \
  }

/* NAME(y, a, ., b, ., count): y += a^T b for `count` rows of a and b; y is HEIGHT x WIDTH. */
#define DEFINE_OUTER(NAME, HEIGHT, WIDTH)                                                         \
  static __attribute__((noinline)) void NAME(float *y, const float *a, int64_t a_step,            \
                                             const float *b, int64_t b_step, int count) {         \
    int first = 0;                                                                                \
    for (; first + ROWS <= (HEIGHT); first += ROWS)                                               \
      outer(y + first * (WIDTH), a + first, a_step, b, b_step, count, ROWS, WIDTH);               \
    if ((HEIGHT) % ROWS)                                                                          \
      outer(y + first * (WIDTH), a + first, a_step, b, b_step, count, (HEIGHT) % ROWS, WIDTH);    \
  }
