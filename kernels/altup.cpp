#include "_loops.h"

// Streams of one token stay in the first-level cache, so each is read from memory once.
extern "C" void altup_forward(const float* x, const float* y, const float* p, const float* g, float* out, int64_t K,
                              int64_t T, int64_t D, int64_t token_stride, int64_t active, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t t = 0; t < T; ++t) {
    const float* pt = p + t * token_stride * K * K;
    const float* gt = g + t * token_stride * K;
    for (int64_t i = 0; i < K; ++i) {
      float* o = out + (i * T + t) * D;
      for (int64_t j = 0; j <= K; ++j) {
        const float m = j < K ? pt[i * K + j] - gt[i] * pt[active * K + j] : gt[i];
        const float* xj = j < K ? x + (j * T + t) * D : y + t * D;
        if (j == 0) for (int64_t d = 0; d < D; ++d) o[d] = m * xj[d];
        else for (int64_t d = 0; d < D; ++d) o[d] += m * xj[d];
      }
    }
  }
}

// products: (T, K + 1, K), <grad_i, x_j> and in the last row <grad_i, y>. What is null is not asked for.
extern "C" void altup_backward(const float* grad, const float* x, const float* y, const float* p, const float* g,
                               float* dx, float* dy, float* products, int64_t K, int64_t T, int64_t D,
                               int64_t token_stride, int64_t active, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t t = 0; t < T; ++t) {
    const float* pt = p + t * token_stride * K * K;
    const float* gt = g + t * token_stride * K;
    for (int64_t j = 0; j <= K; ++j) {
      const float* other = j < K ? x + (j * T + t) * D : y + t * D;
      float* d_other = j < K ? dx : dy;
      if (d_other) d_other += (j < K ? j * T + t : t) * D;
      for (int64_t i = 0; i < K; ++i) {
        const float* gi = grad + (i * T + t) * D;
        const float m = j < K ? pt[i * K + j] - gt[i] * pt[active * K + j] : gt[i];
        if (d_other && i == 0) for (int64_t d = 0; d < D; ++d) d_other[d] = m * gi[d];
        else if (d_other) for (int64_t d = 0; d < D; ++d) d_other[d] += m * gi[d];
        if (products) products[(t * (K + 1) + j) * K + i] = dot(gi, other, D);
      }
    }
  }
}
