// What the loops share: an exponential and a dot product that compilers turn into vector code.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

// exp to about one unit in the last place; unlike the library's, compilers turn it into vector code.
static inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691e-4f;
  p = p * r + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666666e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const int32_t whole = n == n ? static_cast<int32_t>(n) : 0;  // NaN has no integer, and stays NaN in p
  const int32_t bits = (whole + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return p * scale;
}

// Sixteen sums side by side: in one, no compiler may reorder the additions, so none makes vector code of it.
static inline float dot(const float* a, const float* b, int64_t n) {
  float lanes[16] = {0};
  int64_t d = 0;
  for (; d + 16 <= n; d += 16)
    for (int l = 0; l < 16; ++l) lanes[l] += a[d + l] * b[d + l];
  float total = 0;
  for (int l = 0; l < 16; ++l) total += lanes[l];
  for (; d < n; ++d) total += a[d] * b[d];
  return total;
}
