#include "_loops.h"

extern "C" void collect(const float* tokens, const float* sizes, const int64_t* kept, const int64_t* sources,
                        const int64_t* targets, float* out, float* merged, int64_t B, int64_t N, int64_t D, int64_t K,
                        int64_t R, int64_t mean, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) {
    const float *x = tokens + b * N * D, *s = sizes + b * N;
    float *o = out + b * K * D, *m = merged + b * K;
    const int64_t *own = kept + b * K, *source = sources + b * R, *target = targets + b * R;
    if (mean) {
      for (int64_t k = 0; k < K; ++k) m[k] = s[own[k]];
      for (int64_t r = 0; r < R; ++r) m[target[r]] += s[source[r]];
    }
    for (int64_t k = 0; k < K; ++k) {
      const float share = mean ? s[own[k]] / m[k] : 1.0f;
      const float* t = x + own[k] * D;
      if (share == 1.0f) std::copy_n(t, D, o + k * D);
      else for (int64_t d = 0; d < D; ++d) o[k * D + d] = share * t[d];
    }
    for (int64_t r = 0; r < R; ++r) {
      const float share = mean ? s[source[r]] / m[target[r]] : 1.0f;
      const float* t = x + source[r] * D;
      float* row = o + target[r] * D;
      for (int64_t d = 0; d < D; ++d) row[d] += share * t[d];
    }
  }
}

extern "C" void spread(const float* rows, const float* sizes, const float* merged, const int64_t* row, float* out,
                       int64_t B, int64_t N, int64_t D, int64_t K, int64_t mean, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t n = 0; n < B * N; ++n) {
    const int64_t k = n / N * K + row[n];
    const float share = mean ? sizes[n] / merged[k] : 1.0f;
    const float* from = rows + k * D;
    if (share == 1.0f) std::copy_n(from, D, out + n * D);
    else for (int64_t d = 0; d < D; ++d) out[n * D + d] = share * from[d];
  }
}
