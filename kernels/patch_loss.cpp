#include "_loops.h"

#include <vector>

static void target(const float* image, int64_t patch, int64_t channels, int64_t H, int64_t W, int64_t size,
                   int64_t normalised, float epsilon, float* t) {
  const int64_t top = patch / (W / size) * size, left = patch % (W / size) * size, P = size * size * channels;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t r = 0; r < size; ++r) {
      const float* line = image + (c * H + top + r) * W + left;
      for (int64_t q = 0; q < size; ++q) t[(r * size + q) * channels + c] = line[q];
    }
  if (!normalised) return;
  double total = 0, squares = 0;
  for (int64_t e = 0; e < P; ++e) total += t[e];
  const float mean = static_cast<float>(total / P);
  for (int64_t e = 0; e < P; ++e) { t[e] -= mean; squares += static_cast<double>(t[e]) * t[e]; }
  const float inverse = 1 / std::sqrt(static_cast<float>(squares / (P - 1)) + epsilon);
  for (int64_t e = 0; e < P; ++e) t[e] *= inverse;
}

// losses (B, M) where factor is 0, else the gradient (B, M, P).
extern "C" void patch_loss(const float* predicted, const float* images, const int64_t* masked, float* out, int64_t B,
                           int64_t M, int64_t channels, int64_t H, int64_t W, int64_t size, int64_t normalised,
                           double epsilon, double factor, int64_t threads) {
  const int64_t P = size * size * channels;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<float> t(P);
#pragma omp for
    for (int64_t m = 0; m < B * M; ++m) {
      target(images + m / M * channels * H * W, masked[m], channels, H, W, size, normalised,
             static_cast<float>(epsilon), t.data());
      const float* p = predicted + m * P;
      if (factor != 0) {
        const float f = static_cast<float>(factor);
        for (int64_t e = 0; e < P; ++e) out[m * P + e] = f * (p[e] - t[e]);
        continue;
      }
      double total = 0;
      for (int64_t e = 0; e < P; ++e) { const float d = p[e] - t[e]; total += static_cast<double>(d) * d; }
      out[m] = static_cast<float>(total);
    }
  }
}
