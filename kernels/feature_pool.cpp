#include "_loops.h"

static inline bool wins(float value, float best) { return (value > best) | (value != value); }
static inline float larger(float best, float value) { return wins(value, best) ? value : best; }

// The place that window d of a row takes its maximum from: the first of equal ones, or the last NaN.
static inline int64_t source(const float* x, int64_t d, int64_t D) {
  int64_t from = d ? d - 1 : d;
  if (wins(x[d], x[from])) from = d;
  if (d + 1 < D && wins(x[d + 1], x[from])) from = d + 1;
  return from;
}

// Ends apart: what has no condition on the place becomes vector code.
static void maxima(const float* x, float* y, int64_t D) {
  for (int64_t d = 1; d < D - 1; ++d) y[d] = larger(larger(x[d - 1], x[d]), x[d + 1]);
  y[0] = x[source(x, 0, D)];
  y[D - 1] = x[source(x, D - 1, D)];
}

static void spread_maxima(const float* g, const float* x, float* dx, int64_t D) {
  std::fill(dx, dx + D, 0.0f);
  for (int64_t d = 1; d < D - 1; ++d)
    dx[d - 1] += (!wins(x[d], x[d - 1]) & !wins(x[d + 1], x[d - 1])) ? g[d] : 0.0f;
  for (int64_t d = 1; d < D - 1; ++d) dx[d] += (wins(x[d], x[d - 1]) & !wins(x[d + 1], x[d])) ? g[d] : 0.0f;
  for (int64_t d = 1; d < D - 1; ++d) dx[d + 1] += wins(x[d + 1], larger(x[d - 1], x[d])) ? g[d] : 0.0f;
  dx[source(x, 0, D)] += g[0];
  if (D > 1) dx[source(x, D - 1, D)] += g[D - 1];
}

static void means(const float* x, float* y, int64_t D) {
  for (int64_t d = 1; d < D - 1; ++d) y[d] = (x[d - 1] + x[d] + x[d + 1]) / 3.0f;
  y[0] = (x[0] + (D > 1 ? x[1] : 0.0f)) / 3.0f;
  if (D > 1) y[D - 1] = (x[D - 2] + x[D - 1]) / 3.0f;
}

extern "C" void pool_forward(const float* x, float* y, int64_t B, int64_t D, int64_t maximum, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) (maximum ? maxima : means)(x + b * D, y + b * D, D);
}

extern "C" void pool_backward(const float* g, const float* x, float* dx, int64_t B, int64_t D, int64_t maximum,
                              int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) {
    if (maximum)
      spread_maxima(g + b * D, x + b * D, dx + b * D, D);
    else
      means(g + b * D, dx + b * D, D);  // the matrix of a mean is its own transpose
  }
}
