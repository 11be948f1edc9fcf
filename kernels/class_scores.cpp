#include "_loops.h"

extern "C" void class_scores(const float* query, const float* keys, float* scores, float* logits, float* logsumexp,
                             int64_t B, int64_t H, int64_t N, int64_t D, int64_t batch_stride, int64_t head_stride,
                             int64_t token_stride, double scale, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < B; ++b) {
    float* s = scores + b * N;
    std::fill_n(s, N, 0.0f);
    for (int64_t h = 0; h < H; ++h) {
      const float* q = query + (b * H + h) * D;
      const float* k = keys + b * batch_stride + h * head_stride;
      float* row = logits + (b * H + h) * N;
      float largest = -INFINITY, total = 0;
      for (int64_t n = 0; n < N; ++n) {
        row[n] = dot(q, k + n * token_stride, D) * static_cast<float>(scale);
        largest = std::max(largest, row[n]);
      }
      float lanes[16] = {0};
      int64_t n = 0;
      for (; n + 16 <= N; n += 16)
        for (int l = 0; l < 16; ++l) lanes[l] += fast_exp(row[n + l] - largest);
      for (int l = 0; l < 16; ++l) total += lanes[l];
      for (; n < N; ++n) total += fast_exp(row[n] - largest);
      const float share = 1.0f / (total * H);
      for (n = 0; n < N; ++n) s[n] += fast_exp(row[n] - largest) * share;
      logsumexp[b * H + h] = largest + std::log(total);
    }
  }
}

// Of dquery and dkeys, what is null is not asked for.
extern "C" void class_scores_backward(const float* grad, const float* logits, const float* logsumexp,
                                      const float* query, const float* keys, float* dquery, float* dkeys, int64_t B,
                                      int64_t H, int64_t N, int64_t D, int64_t batch_stride, int64_t head_stride,
                                      int64_t token_stride, double scale, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t program = 0; program < B * H; ++program) {
    const float* g = grad + program / H * N;
    const float* k = keys + program / H * batch_stride + program % H * head_stride;
    const float* row = logits + program * N;
    const float* q = query + program * D;
    float* dq = dquery ? dquery + program * D : nullptr;
    const float largest = logsumexp[program], factor = static_cast<float>(scale) / H;
    float mean = 0;
    for (int64_t n = 0; n < N; ++n) mean += fast_exp(row[n] - largest) * g[n];
    if (dq) std::fill_n(dq, D, 0.0f);
    for (int64_t n = 0; n < N; ++n) {
      const float dlogit = fast_exp(row[n] - largest) * (g[n] - mean) * factor;
      const float* kn = k + n * token_stride;
      if (dq) for (int64_t d = 0; d < D; ++d) dq[d] += dlogit * kn[d];
      if (!dkeys) continue;
      float* dk = dkeys + (program * N + n) * D;
      for (int64_t d = 0; d < D; ++d) dk[d] = dlogit * q[d];
    }
  }
}
