// The element-wise loops over one tile of scores, written once as plain C++ that the compiler vectorises, and compiled once
// per instruction set (isa_*.cpp). Nothing here includes a library header: an inline function of the standard library must
// not be emitted with AVX-512 instructions that the rest of the program would then share.
//
// Pointers are copied to locals before a loop: read through the struct they could alias the output, and nothing vectorises.
// This file is included inside a namespace of its instruction set, after that set has been switched on.

// 2^x for x <= 127.5. Relative error below 1.3e-7 down to x = -126, below which the result is 0 (the callers' range guard
// allows for that). NaN stays NaN. The nearest integer n comes from the float addition of 1.5 * 2^23, whose low bits then
// hold n.
static inline float exp2_of(float x) {
  const float magic = 12582912.0f;
  const float shifted = x + magic;
  const float f = x - (shifted - magic);
  float p = 1.535335723e-4f;
  p = p * f + 1.339887622e-3f;
  p = p * f + 9.618437391e-3f;
  p = p * f + 5.550332465e-2f;
  p = p * f + 2.402264791e-1f;
  p = p * f + 6.931472029e-1f;
  p = p * f + 1.0f;
  const int n = __builtin_bit_cast(int, shifted) << 23;
  const float r = __builtin_bit_cast(float, __builtin_bit_cast(int, p) + n);
  return x < -126.0f ? 0.0f : (x == x ? r : x);
}

// log(1 + e) for 0 <= e <= 1 with full relative precision: 2 atanh(e / (2 + e)), whose series converges like 9^-k.
static inline float log1p_of(float e) {
  const float q = e / (2.0f + e);
  const float q2 = q * q;
  float p = 1.0f / 15.0f;
  p = p * q2 + 1.0f / 13.0f;
  p = p * q2 + 1.0f / 11.0f;
  p = p * q2 + 1.0f / 9.0f;
  p = p * q2 + 1.0f / 7.0f;
  p = p * q2 + 1.0f / 5.0f;
  p = p * q2 + 1.0f / 3.0f;
  p = p * q2 + 1.0f;
  return 2.0f * q * p;
}

// scale * d + offset. The scale is split in two floats, so that one of 100 adds no rounding of its own.
struct Affine {
  float high, low, offset;
  Affine(double scale, double add)
      : high(static_cast<float>(scale)), low(static_cast<float>(scale - high)), offset(static_cast<float>(add)) {}
  inline float operator()(float d) const { return d * high + (d * low + offset); }
};

// Calls body(begin, end) on the runs of columns between the row's excluded ones, and cut(column) on those.
template <class Body, class Cut>
static inline void between_excluded(const Tile& t, int64 row, const Body& body, const Cut& cut) {
  int64 begin = 0;
  while (true) {
    int64 next = t.cols;
    for (int64 k = 0; k < t.excluded_per_row; ++k) {
      const int64 c = t.excluded[row * t.excluded_per_row + k] - t.first_col;
      if (c >= begin && c < next) next = c;
    }
    body(begin, next);
    if (next == t.cols) return;
    cut(next);
    begin = next + 1;
  }
}

// out = 2^(z_log2 - shift_log2), 0 where excluded; its row and column sums, and its maxima where they are asked for.
template <bool kColNorms, bool kMaxima>
static void exp_sums_of(const Tile& t, const ExpSums& s, int64 first, int64 last, float* col_sum, float* col_max) {
  for (int64 i = first; i < last; ++i) {
    const float* x = t.scores + i * t.cols;
    float* o = t.out + i * t.cols;
    const float* b = t.col_inverse_norm;
    const Affine z_log2(t.row_scale[i] * kLog2e, -s.shift_log2);
    float sum = 0.0f, largest = 0.0f;
    between_excluded(
        t, i,
        [&](int64 begin, int64 end) {
#pragma omp simd reduction(+ : sum) reduction(max : largest)
          for (int64 j = begin; j < end; ++j) {
            const float e = exp2_of(z_log2(kColNorms ? x[j] * b[j] : x[j]));
            o[j] = e;
            sum += e;
            col_sum[j] += e;
            if (kMaxima) {
              largest = e > largest ? e : largest;
              col_max[j] = e > col_max[j] ? e : col_max[j];
            }
          }
        },
        [&](int64 j) { o[j] = 0.0f; });
    s.row_sum[i] += sum;
    if (kMaxima && largest > s.row_max[i]) s.row_max[i] = largest;
  }
}

void exp_sums(const Tile& t, const ExpSums& s, int64 first, int64 last, float* col_sum, float* col_max) {
  if (t.col_inverse_norm)
    col_max ? exp_sums_of<true, true>(t, s, first, last, col_sum, col_max)
            : exp_sums_of<true, false>(t, s, first, last, col_sum, col_max);
  else
    col_max ? exp_sums_of<false, true>(t, s, first, last, col_sum, col_max)
            : exp_sums_of<false, false>(t, s, first, last, col_sum, col_max);
}

// out = 2^(z_log2 - shift_log2) * (u_i + v_j) * a_i * b_j, 0 where excluded; a and b are row_inner and col_inverse_norm. kKept:
// the scores already hold the exponentials.
template <bool kColNorms, bool kKept>
static void softmax_weights_of(const Tile& t, const SoftmaxWeights& w, int64 first, int64 last) {
  for (int64 i = first; i < last; ++i) {
    const float* x = t.scores + i * t.cols;
    float* o = t.out + i * t.cols;
    const float *b = t.col_inverse_norm, *v = w.v;
    const Affine z_log2(t.row_scale[i] * kLog2e, -w.shift_log2);
    const float u = w.u[i], a = w.row_inner ? w.row_inner[i] : 1.0f;
    between_excluded(
        t, i,
        [&](int64 begin, int64 end) {
#pragma omp simd
          for (int64 j = begin; j < end; ++j) {
            const float c = kColNorms ? b[j] : 1.0f;
            const float e = kKept ? x[j] : exp2_of(z_log2(x[j] * c));
            o[j] = e * (u + v[j]) * (a * c);
          }
        },
        [&](int64 j) { o[j] = 0.0f; });
  }
}

void softmax_weights(const Tile& t, const SoftmaxWeights& w, int64 first, int64 last) {
  if (t.col_inverse_norm)
    w.kept ? softmax_weights_of<true, true>(t, w, first, last) : softmax_weights_of<true, false>(t, w, first, last);
  else
    w.kept ? softmax_weights_of<false, true>(t, w, first, last) : softmax_weights_of<false, false>(t, w, first, last);
}

// Row sums of softplus(z) and of sigmoid(z), z with the bias; out = sigmoid(z) * upstream_i * a_i * b_j where gradients are
// wanted.
template <bool kColNorms, bool kWeights>
static void sigmoid_of(const Tile& t, const Sigmoid& s, int64 first, int64 last) {
  for (int64 i = first; i < last; ++i) {
    const float* x = t.scores + i * t.cols;
    float* o = t.out + i * t.cols;
    const float* b = t.col_inverse_norm;
    const Affine z(t.row_scale[i], s.bias);
    const float g = s.upstream ? s.upstream[i] : 1.0f;
    const float a = s.row_inner ? s.row_inner[i] : 1.0f;
    float loss = 0.0f, sigmoids = 0.0f;
    between_excluded(
        t, i,
        [&](int64 begin, int64 end) {
#pragma omp simd reduction(+ : loss, sigmoids)
          for (int64 j = begin; j < end; ++j) {
            const float c = kColNorms ? b[j] : 1.0f;
            const float v = z(x[j] * c);
            const float size = v < 0.0f ? -v : v;
            const float e = exp2_of(-size * static_cast<float>(kLog2e));
            loss += (v < 0.0f ? 0.0f : v) + log1p_of(e);
            if (kWeights) {
              const float p = (v < 0.0f ? e : 1.0f) / (1.0f + e);
              sigmoids += p;
              o[j] = p * g * (a * c);
            }
          }
        },
        [&](int64 j) {
          if (kWeights) o[j] = 0.0f;
        });
    s.row_loss[i] += loss;
    if (kWeights) s.row_sigmoid_sum[i] += sigmoids;
  }
}

void sigmoid(const Tile& t, const Sigmoid& s, int64 first, int64 last) {
  if (t.col_inverse_norm)
    s.weights ? sigmoid_of<true, true>(t, s, first, last) : sigmoid_of<true, false>(t, s, first, last);
  else
    s.weights ? sigmoid_of<false, true>(t, s, first, last) : sigmoid_of<false, false>(t, s, first, last);
}

// The row's sum in double: a converged loss is exp(-(positive - negatives)), so the positive's absolute error counts.
static inline double dot_of(const float* x, const float* y, int64 n) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64 k = 0; k < n; ++k) sum += static_cast<double>(x[k]) * static_cast<double>(y[k]);
  return sum;
}

void paired_dots(const PairedDots& p, int64 first, int64 last) {
  for (int64 i = first; i < last; ++i) {
    const int64 j = p.partner ? p.partner[i] : i;
    p.dots[i] = j < 0 ? 0.0 : dot_of(p.x + i * p.x_stride, p.y + j * p.y_stride, p.width);
  }
}

// tile.h says what is computed; <x_i, g_i> is summed in double, and the rest is float32.
void finish_rows(const FinishRows& f, int64 first, int64 last) {
  for (int64 i = first; i < last; ++i) {
    const int64 j = f.partner ? f.partner[i] : i;
    const float* x = f.x + i * f.x_stride;
    float* g = f.grad + i * f.width;
    const float alpha = static_cast<float>(f.alpha);
    if (f.y && j >= 0) {
      const float* y = f.y + j * f.y_stride;
      const float pull = static_cast<float>(f.positive_pull[i]);
#pragma omp simd
      for (int64 k = 0; k < f.width; ++k) g[k] = g[k] * alpha - pull * y[k];
    } else {
#pragma omp simd
      for (int64 k = 0; k < f.width; ++k) g[k] *= alpha;
    }
    const double dot = dot_of(x, g, f.width);
    const float along = f.projection ? static_cast<float>(f.projection[i] * dot * f.scale) : 0.0f;
    const float scale = static_cast<float>(f.scale);
#pragma omp simd
    for (int64 k = 0; k < f.width; ++k) g[k] = scale * g[k] - along * x[k];
    f.dots[i] = dot;
  }
}

// target[i][k] += source[k][i], in blocks that stay in the first-level cache.
void add_transposed(float* target, int64 target_stride, const float* source, int64 source_stride, int64 first, int64 last,
                    int64 width) {
  const int64 block = 16;
  for (int64 i0 = first; i0 < last; i0 += block)
    for (int64 k0 = 0; k0 < width; k0 += block) {
      const int64 i1 = i0 + block < last ? i0 + block : last, k1 = k0 + block < width ? k0 + block : width;
      float corner[block][block];
      for (int64 k = k0; k < k1; ++k)
        for (int64 i = i0; i < i1; ++i) corner[i - i0][k - k0] = source[k * source_stride + i];
      for (int64 i = i0; i < i1; ++i)
        for (int64 k = k0; k < k1; ++k) target[i * target_stride + k] += corner[i - i0][k - k0];
    }
}
