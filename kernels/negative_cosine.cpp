#include "_loops.h"

// kept: cosines, one over the norms of p, of z.
extern "C" void cosine_forward(const float* p, const float* z, float* kept, float* loss, int64_t B, int64_t D,
                               double epsilon, int64_t threads) {
  const float least = static_cast<float>(epsilon);
#pragma omp parallel for num_threads(threads) if (threads > 1 && B * D > 16384)
  for (int64_t b = 0; b < B; ++b) {
    const float *x = p + b * D, *y = z + b * D;
    float dot = 0, xx = 0, yy = 0;
#pragma omp simd reduction(+ : dot, xx, yy)
    for (int64_t d = 0; d < D; ++d) { dot += x[d] * y[d]; xx += x[d] * x[d]; yy += y[d] * y[d]; }
    // A norm that is not a number stays one: it compares as smaller to nothing.
    const float norm_x = std::sqrt(xx) < least ? least : std::sqrt(xx);
    const float norm_y = std::sqrt(yy) < least ? least : std::sqrt(yy);
    kept[B + b] = 1 / norm_x;
    kept[2 * B + b] = 1 / norm_y;
    kept[b] = dot * kept[B + b] * kept[2 * B + b];
  }
  double total = 0;
  for (int64_t b = 0; b < B; ++b) total += kept[b];
  *loss = static_cast<float>(B ? -total / B : 0);
}

extern "C" void cosine_backward(const float* grad, const float* kept, const float* p, const float* z, float* dp,
                                int64_t B, int64_t D, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1 && B * D > 16384)
  for (int64_t b = 0; b < B; ++b) {
    const float along_z = -*grad / B * kept[B + b] * kept[2 * B + b];
    const float along_p = *grad / B * kept[B + b] * kept[B + b] * kept[b];
    const float *x = p + b * D, *y = z + b * D;
    float* o = dp + b * D;
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) o[d] = along_z * y[d] + along_p * x[d];
  }
}
