#include "_loops.h"

// Columns at a time: their sums stay in the first-level cache while whole pages of x stream past.
constexpr int64_t C = 512;
static int64_t chunk(int64_t D, int64_t threads) {
  return std::min(C, std::max<int64_t>(64, (D / std::max<int64_t>(threads, 1) + 15) / 16 * 16));
}

template <int code> static inline float act(float y) {
  if (code == 0) return y <= 0 ? 0 : y;  // NaN stays
  if (code == 1) return y / (1 + fast_exp(-y));
  if (code == 2) { const float r = y + 3 < 0 ? 0 : (y + 3 > 6 ? 6 : y + 3); return y * r * (1 / 6.0f); }
  const float e = fast_exp(y < 0 ? y : 0) - 1;
  return y <= 0 ? e : y;
}

template <int code> static inline float slope(float y) {
  if (code == 0) return y <= 0 ? 0 : 1;
  if (code == 1) { const float s = 1 / (1 + fast_exp(-y)); return s * (1 + y * (1 - s)); }
  if (code == 2) return y <= -3 ? 0 : (y >= 3 ? 1 : y * (1 / 3.0f) + 0.5f);
  const float e = fast_exp(y < 0 ? y : 0);
  return y <= 0 ? e : 1;
}

struct Columns { float mean[C], inverse[C], scale[C], shift[C]; };

static void load(Columns& c, const float* mean, const float* variance, const float* scale, const float* shift,
                 double epsilon, int64_t n) {
  for (int64_t d = 0; d < n; ++d) {
    c.mean[d] = mean[d];
    c.inverse[d] = 1 / std::sqrt(variance[d] + static_cast<float>(epsilon));
    c.scale[d] = scale[d];
    c.shift[d] = shift[d];
  }
}

static void statistics(const float* x, float* mean, float* variance, int64_t B, int64_t stride, int64_t n) {
  float total[C] = {0}, squares[C] = {0};
  for (int64_t b = 0; b < B; ++b)
#pragma omp simd
    for (int64_t d = 0; d < n; ++d) total[d] += x[b * stride + d];
  for (int64_t d = 0; d < n; ++d) total[d] /= B;
  for (int64_t b = 0; b < B; ++b)
#pragma omp simd
    for (int64_t d = 0; d < n; ++d) { const float v = x[b * stride + d] - total[d]; squares[d] += v * v; }
  for (int64_t d = 0; d < n; ++d) { mean[d] = total[d]; variance[d] = squares[d] / B; }
}

template <int code>
static void mix(const float* x, const Columns& c, float weight, bool first, float* out, int64_t B, int64_t stride,
                int64_t D, int64_t n) {
  for (int64_t b = 0; b < B; ++b) {
    const float* xb = x + b * stride;
    float* o = out + b * D;
    if (first) std::fill_n(o, n, 0.0f);
#pragma omp simd
    for (int64_t d = 0; d < n; ++d) {
      const float y = (xb[d] - c.mean[d]) * c.inverse[d] * c.scale[d] + c.shift[d];
      o[d] += weight * act<code>(y);
    }
  }
}

#define EACH(function, ...)                    \
  switch (codes >> (2 * k) & 3) {              \
    case 0: function<0>(__VA_ARGS__); break;   \
    case 1: function<1>(__VA_ARGS__); break;   \
    case 2: function<2>(__VA_ARGS__); break;   \
    default: function<3>(__VA_ARGS__);         \
  }

extern "C" void mixed_forward(const float* x, const float* mixing, const float* scale, const float* shift, float* mean,
                              float* variance, float* out, int64_t B, int64_t K, int64_t D, int64_t stride,
                              int64_t codes, double epsilon, int64_t training, int64_t threads) {
  const int64_t step = chunk(D, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t start = 0; start < D; start += step) {
    const int64_t n = std::min(step, D - start);
    for (int64_t k = 0; k < K; ++k) {
      const int64_t column = k * D + start;
      if (training) statistics(x + column, mean + column, variance + column, B, stride, n);
      Columns c;
      load(c, mean + column, variance + column, scale + column, shift + column, epsilon, n);
      EACH(mix, x + column, c, mixing[k], k == 0, out + start, B, stride, D, n)
    }
  }
}

// Where dx is null its rows are written to one that nobody reads.
template <int code>
static void back(const float* grad, const float* x, const Columns& c, float weight, float* dx, float* dscale,
                 float* dshift, float* dmixing, bool training, int64_t B, int64_t stride, int64_t D, int64_t KD,
                 int64_t n) {
  float a[C] = {0}, s[C] = {0}, m[C] = {0}, unread[C];
  for (int64_t b = 0; b < B; ++b) {
    const float *xb = x + b * stride, *g = grad + b * D;
    float* o = dx ? dx + b * KD : unread;
#pragma omp simd
    for (int64_t d = 0; d < n; ++d) {
      const float normal = (xb[d] - c.mean[d]) * c.inverse[d];
      const float y = normal * c.scale[d] + c.shift[d];
      const float dy = weight * g[d] * slope<code>(y);
      o[d] = dy;
      s[d] += dy;
      a[d] += dy * normal;
      m[d] += g[d] * act<code>(y);
    }
  }
  for (int64_t d = 0; d < n; ++d) { dscale[d] = a[d]; dshift[d] = s[d]; dmixing[d] = m[d]; }
  if (!dx) return;
  if (!training)  // constants: what is no number in one row must not reach the others
    for (int64_t d = 0; d < n; ++d) a[d] = s[d] = 0;
  for (int64_t d = 0; d < n; ++d) { a[d] /= B; s[d] /= B; }
  for (int64_t b = 0; b < B; ++b) {
    const float* xb = x + b * stride;
    float* o = dx + b * KD;
#pragma omp simd
    for (int64_t d = 0; d < n; ++d) {
      const float normal = (xb[d] - c.mean[d]) * c.inverse[d];
      o[d] = c.scale[d] * c.inverse[d] * (o[d] - (s[d] + normal * a[d]));
    }
  }
}

extern "C" void mixed_backward(const float* grad, const float* x, const float* mixing, const float* scale,
                               const float* shift, const float* mean, const float* variance, float* dx, float* dscale,
                               float* dshift, float* dmixing, int64_t B, int64_t K, int64_t D, int64_t stride,
                               int64_t codes, double epsilon, int64_t training, int64_t threads) {
  const int64_t step = chunk(D, threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t start = 0; start < D; start += step) {
    const int64_t n = std::min(step, D - start);
    for (int64_t k = 0; k < K; ++k) {
      const int64_t column = k * D + start;
      Columns c;
      load(c, mean + column, variance + column, scale + column, shift + column, epsilon, n);
      EACH(back, grad + start, x + column, c, mixing[k], dx ? dx + column : nullptr, dscale + column, dshift + column,
           dmixing + column, training, B, stride, D, K * D, n)
    }
  }
}
