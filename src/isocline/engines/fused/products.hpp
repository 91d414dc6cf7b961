// Matrices times the rows of a tile, and the products of rows that a matrix's gradient is: register-blocked, every weight
// read once a tile.
#pragma once
#include "memory.hpp"
#include "vectors.hpp"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

// Where an operand's numbers are: rows (stride NV vectors, or 0), or single numbers (stride 1 or 0).
template <class T> struct Source {
  const V<T> *rows;
  const T *numbers;
  int stride;
  T number;
};
// Vector v of row i.
template <class T> INLINE V<T> read(const Source<T> &s, int i, int v) {
  return s.rows ? s.rows[i * s.stride + v] : all<T>(s.numbers ? s.numbers[i * s.stride] : s.number);
}

// Rows of a product that are summed at once: with two vectors each they must fit the registers, 32 or 16 of them.
constexpr int BLOCK = ISO_BYTES == 64 ? 8 : 6;

constexpr int THIN = 4; // columns of a matrix that are kept in registers

// A matrix (m, k), entry (i, j) at w[i * s + j * d], in blocks: for every block of rows, column by column. One of few
// columns row by row.
template <class T> static void pack(const T *w, int m, int k, int64_t s, int64_t d, std::vector<T> &out) {
  out.resize(size_t(m) * k);
  size_t at = 0;
  if (k <= THIN) {
    for (int i = 0; i < m; i++)
      for (int j = 0; j < k; j++) out[at++] = w[i * s + j * d];
    return;
  }
  for (int i = 0; i < m; i += BLOCK)
    for (int j = 0; j < k; j++)
      for (int b = i; b < std::min(i + BLOCK, m); b++) out[at++] = w[b * s + j * d];
}

// What becomes of B rows of P vectors, before they are written; `by` has as many, in rows of nv.
struct Plain {
  template <class T, int P, int B> INLINE_MEMBER void bend(V<T> *, const V<T> *, int) {}
};
struct Tanh {
  template <class T, int P, int B> INLINE_MEMBER void bend(V<T> *x, const V<T> *, int) {
    constexpr int K = B * P % 4 == 0 && ISO_BYTES == 64 ? 4 : B * P % 2 == 0 ? 2 : 1; // as many as the registers hold
#pragma GCC unroll 4
    for (int i = 0; i < B * P; i += K) fast_tanh<K>(x + i, x + i);
  }
};
struct TanhBack { // g (1 − z²)
  template <class T, int P, int B> INLINE_MEMBER void bend(V<T> *x, const V<T> *by, int nv) {
#pragma GCC unroll 8
    for (int b = 0; b < B; b++)
#pragma GCC unroll 4
      for (int v = 0; v < P; v++) {
        const V<T> z = by[b * nv + v];
        x[b * P + v] = x[b * P + v] * (1 - z * z);
      }
  }
};

// P vectors of B rows; x, by and out have rows of nv. Few rows are summed in several parts: else every product would wait for
// the one before. How many depends on nothing but the rows, so that tiles of all widths give the same bits.
template <class T, class E, int P, int B>
static inline void product_block(const T *w, const Source<T> &bias, int first, const V<T> *x, int k, int nv, const V<T> *by,
                                 V<T> *out) {
  constexpr int PARTS = B == 1 ? 4 : B == 2 ? 2 : 1;
  V<T> sum[PARTS][B * P] = {};
#pragma GCC unroll 8
  for (int b = 0; b < B; b++)
#pragma GCC unroll 4
    for (int v = 0; v < P; v++) sum[0][b * P + v] = read<T>(bias, first + b, v);
  auto add = [&](int part, int j) __attribute__((always_inline)) {
    V<T> column[P];
#pragma GCC unroll 4
    for (int v = 0; v < P; v++) column[v] = in_register<T>(x[j * nv + v]);
#pragma GCC unroll 8
    for (int b = 0; b < B; b++) {
      V<T> weight = all<T>(w[j * B + b]);
#pragma GCC unroll 4
      for (int v = 0; v < P; v++) sum[part][b * P + v] += weight * column[v];
    }
  };
  int j = 0;
#pragma GCC unroll 1
  for (; j + PARTS <= k; j += PARTS) {
#pragma GCC unroll 4
    for (int part = 0; part < PARTS; part++) add(part, j + part);
  }
  if constexpr (PARTS > 1)
    for (; j < k; j++) add(0, j);
#pragma GCC unroll 4
  for (int part = 1; part < PARTS; part++)
#pragma GCC unroll 4
    for (int i = 0; i < B * P; i++) sum[0][i] += sum[part][i];
  E::template bend<T, P, B>(sum[0], by + first * nv, nv);
#pragma GCC unroll 8
  for (int b = 0; b < B; b++)
#pragma GCC unroll 4
    for (int v = 0; v < P; v++) out[(first + b) * nv + v] = sum[0][b * P + v];
}

// Few columns: they stay in registers, row after row; `start` is the bias of row i, vector v.
template <class T, class E, int P, int K, class F>
static inline void thin_product(const T *w, F start, const V<T> *x, int m, int nv, const V<T> *by, V<T> *out) {
  V<T> column[K][P];
#pragma GCC unroll 4
  for (int j = 0; j < K; j++)
#pragma GCC unroll 4
    for (int v = 0; v < P; v++) column[j][v] = x[j * nv + v];
  for (int i = 0; i < m; i++, w += K, by += nv, out += nv) {
    V<T> sum[P]; // all of them before the first is written: who writes might change the weights
#pragma GCC unroll 4
    for (int v = 0; v < P; v++) sum[v] = start(i, v);
#pragma GCC unroll 4
    for (int j = 0; j < K; j++)
#pragma GCC unroll 4
      for (int v = 0; v < P; v++) sum[v] += w[j] * column[j][v];
    E::template bend<T, P, 1>(sum, by, nv);
#pragma GCC unroll 4
    for (int v = 0; v < P; v++) out[v] = sum[v];
  }
}
template <class T, class E, int P, int K>
static inline void thin_product(const T *w, const Source<T> &bias, const V<T> *x, int m, int nv, const V<T> *by, V<T> *out) {
  const int stride = bias.stride;
  if (const V<T> *rows = bias.rows)
    return thin_product<T, E, P, K>(w, [=](int i, int v) { return rows[i * stride + v]; }, x, m, nv, by, out);
  if (const T *numbers = bias.numbers)
    return thin_product<T, E, P, K>(w, [=](int i, int) { return all<T>(numbers[i * stride]); }, x, m, nv, by, out);
  const V<T> number = all<T>(bias.number);
  thin_product<T, E, P, K>(w, [=](int, int) { return number; }, x, m, nv, by, out);
}

template <class T, class E, int P>
static __attribute__((noinline)) void product_columns(const T *w, const Source<T> &bias, const V<T> *x, int m, int k,
                                                      int nv, const V<T> *by, V<T> *out) {
  switch (k) {
  case 1: return thin_product<T, E, P, 1>(w, bias, x, m, nv, by, out);
  case 2: return thin_product<T, E, P, 2>(w, bias, x, m, nv, by, out);
  case 3: return thin_product<T, E, P, 3>(w, bias, x, m, nv, by, out);
  case 4: return thin_product<T, E, P, 4>(w, bias, x, m, nv, by, out);
  }
  int i = 0;
  for (; i + BLOCK <= m; i += BLOCK, w += size_t(BLOCK) * k) product_block<T, E, P, BLOCK>(w, bias, i, x, k, nv, by, out);
  switch (m - i) {
  case 1: return product_block<T, E, P, 1>(w, bias, i, x, k, nv, by, out);
  case 2: return product_block<T, E, P, 2>(w, bias, i, x, k, nv, by, out);
  case 3: return product_block<T, E, P, 3>(w, bias, i, x, k, nv, by, out);
  case 4: return product_block<T, E, P, 4>(w, bias, i, x, k, nv, by, out);
  case 5: return product_block<T, E, P, 5>(w, bias, i, x, k, nv, by, out);
  case 6: return product_block<T, E, P, 6>(w, bias, i, x, k, nv, by, out);
  case 7: return product_block<T, E, P, 7>(w, bias, i, x, k, nv, by, out);
  }
}
template <class T, class E>
static void product(const T *w, Source<T> bias, const V<T> *x, int m, int k, int nv, const V<T> *by, V<T> *out) {
  if (nv == 1) return product_columns<T, E, 1>(w, bias, x, m, k, nv, by, out);
  for (int v = 0; v < nv; v += 2, bias.rows += bias.rows ? 2 : 0)
    product_columns<T, E, 2>(w, bias, x + v, m, k, nv, by + v, out + v);
}
template <class T> static void product(const T *w, const Source<T> &bias, const V<T> *x, int m, int k, int nv, V<T> *out) {
  product<T, Plain>(w, bias, x, m, k, nv, out, out);
}

template <class T, int NV> INLINE void add_lanes(const V<T> *row, V<T> &into) {
  V<T> sum = into;
#pragma GCC unroll 16
  for (int v = 0; v < NV; v++) sum += row[v];
  into = sum;
}
// Sums of m rows, lane by lane.
template <class T, int NV> static void add_rows(const V<T> *g, int m, V<T> *into) {
  for (int i = 0; i < m; i++) add_lanes<T, NV>(g + int64_t(i) * NV, into[i]);
}

// ---- G Xᵀ ------------------------------------------------------------------------------------------------------------
// Small: into (m, k) sums lane by lane. F rows of one side stay in registers, those of the other go by once; the sum of
// row i of these and row f of those is at into[i * step + f * apart]. `rows`, where it is wanted: the sums of those that go by.
template <class T, int NV, int F, bool ROWS>
static inline void outer_few(const V<T> *many, int count, const V<T> *few, int64_t step, int64_t apart, V<T> *into,
                             V<T> *rows) {
  V<T> kept[F][NV];
  for (int f = 0; f < F; f++)
    for (int v = 0; v < NV; v++) kept[f][v] = few[f * NV + v];
  for (int i = 0; i < count; i++, into += step) {
    V<T> row[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++) row[v] = many[i * NV + v];
    if constexpr (ROWS) add_lanes<T, NV>(row, rows[i]);
#pragma GCC unroll 4
    for (int f = 0; f < F; f++) {
      V<T> sum = into[f * apart];
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) sum += row[v] * kept[f][v];
      into[f * apart] = sum;
    }
  }
}
// And into `bias`, unless that is null, the rows of g.
template <class T, int NV> static void outer(const V<T> *g, int m, const V<T> *x, int k, V<T> *into, V<T> *bias) {
  const bool narrow = k < std::min(m, THIN);
  const int all = narrow ? k : m;
  auto rows = [&](auto few, int i) {
    constexpr int F = decltype(few)::value;
    if (!narrow) outer_few<T, NV, F, false>(x, k, g + i * NV, 1, k, into + int64_t(i) * k, nullptr);
    else if (bias) outer_few<T, NV, F, true>(g, m, x + i * NV, k, 1, into + i, bias);
    else outer_few<T, NV, F, false>(g, m, x + i * NV, k, 1, into + i, nullptr);
  };
  if (bias && !narrow) add_rows<T, NV>(g, m, bias);
  int i = 0;
  for (; i + 4 <= all; i += 4) rows(std::integral_constant<int, 4>(), i);
  switch (all - i) {
  case 1: return rows(std::integral_constant<int, 1>(), i);
  case 2: return rows(std::integral_constant<int, 2>(), i);
  case 3: return rows(std::integral_constant<int, 3>(), i);
  }
}

// Large: the lanes are summed over in the product, x with its lanes outermost.
template <class T> constexpr bool contracts(int m, int k) { return int64_t(m) * k > 1024 && k >= 2 * LENGTH<T>; }
template <class T> constexpr int padded(int k) { return (k + LENGTH<T> - 1) / LENGTH<T> * LENGTH<T>; }

// One pass of a transposition: of two vectors the halves (quarters, …) of D numbers change places.
template <class T, int D> INLINE void exchange(V<T> &a, V<T> &b) {
  constexpr int L = LENGTH<T>;
#if defined(__clang__)
  V<T> c = a, d = b;
  for (int i = 0; i < L; i++) a[i] = i & D ? d[i - D] : c[i], b[i] = i & D ? d[i] : c[i + D];
#else
  I<T> low{}, high{};
  for (int i = 0; i < L; i++) low[i] = i & D ? i - D + L : i, high[i] = i & D ? i + L : i + D;
  V<T> c = __builtin_shuffle(a, b, low);
  b = __builtin_shuffle(a, b, high), a = c;
#endif
}
template <class T, int D> INLINE void transpose(V<T> *r) {
  if constexpr (D > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < LENGTH<T>; i++)
      if (!(i & D)) exchange<T, D>(r[i], r[i + D]);
    transpose<T, D / 2>(r);
  }
}
// x (k rows of NV vectors) to out (lanes, padded(k)).
template <class T, int NV> static void lanes_first(const V<T> *x, int k, T *out) {
  constexpr int L = LENGTH<T>;
  const int width = padded<T>(k);
  for (int j = 0; j < width; j += L)
    for (int v = 0; v < NV; v++) {
      V<T> r[L];
      for (int i = 0; i < L; i++) r[i] = j + i < k ? x[(j + i) * NV + v] : V<T>{};
      transpose<T, L / 2>(r);
      for (int i = 0; i < L; i++) *(V<T> *)(out + int64_t(v * L + i) * width + j) = r[i];
    }
}
template <class T, int NV, int P, int B> INLINE void contract_block(const T *g, const T *x, int width, T *into) {
  constexpr int L = LENGTH<T>, W = NV * L;
  V<T> sum[B][P];
  for (int b = 0; b < B; b++)
    for (int p = 0; p < P; p++) sum[b][p] = *(V<T> *)(into + int64_t(b) * width + p * L);
#pragma GCC unroll 1
  for (int l = 0; l < W; l++) {
    V<T> column[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) column[p] = *(const V<T> *)(x + int64_t(l) * width + p * L);
#pragma GCC unroll 8
    for (int b = 0; b < B; b++) {
      V<T> weight = all<T>(g[b * W + l]);
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) sum[b][p] += weight * column[p];
    }
  }
  for (int b = 0; b < B; b++)
    for (int p = 0; p < P; p++) *(V<T> *)(into + int64_t(b) * width + p * L) = sum[b][p];
}
template <class T, int NV, int P> static void contract_columns(const T *g, int m, const T *x, int width, T *into) {
  constexpr int W = NV * LENGTH<T>;
  int i = 0;
  for (; i + BLOCK <= m; i += BLOCK)
    contract_block<T, NV, P, BLOCK>(g + int64_t(i) * W, x, width, into + int64_t(i) * width);
  for (; i + 2 <= m; i += 2) contract_block<T, NV, P, 2>(g + int64_t(i) * W, x, width, into + int64_t(i) * width);
  for (; i < m; i++) contract_block<T, NV, P, 1>(g + int64_t(i) * W, x, width, into + int64_t(i) * width);
}
// into (m, padded(k)) += g (m rows) times x, which comes lanes first.
template <class T, int NV> static void contract(const V<T> *g, int m, const T *x, int k, T *into) {
  constexpr int L = LENGTH<T>;
  const int width = padded<T>(k);
  int j = 0;
  for (; j + 2 * L <= width; j += 2 * L) contract_columns<T, NV, 2>((const T *)g, m, x + j, width, into + j);
  if (j < width) contract_columns<T, NV, 1>((const T *)g, m, x + j, width, into + j);
}
