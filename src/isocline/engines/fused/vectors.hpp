// Vectors of numbers, one a sample, and the functions of them; by the compiler's vector extensions, for any machine.
//
// Every function is within 4 units in the last place, exp and tanh of float within 2 (tests/fused/test_machine.py measures it), keeps NaN, and is right
// at 0, at infinity and where it overflows. With glibc's vector library the less common ones are its own.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define ISO_BYTES 64
#elif defined(__AVX2__)
#define ISO_BYTES 32
#else
#define ISO_BYTES 16
#endif
#define INLINE static inline __attribute__((always_inline))

template <class T> struct Vector;
template <> struct Vector<float> {
  typedef float type __attribute__((vector_size(ISO_BYTES), aligned(ISO_BYTES), may_alias));
  typedef int32_t bits __attribute__((vector_size(ISO_BYTES), aligned(ISO_BYTES), may_alias));
};
template <> struct Vector<double> {
  typedef double type __attribute__((vector_size(ISO_BYTES), aligned(ISO_BYTES), may_alias));
  typedef int64_t bits __attribute__((vector_size(ISO_BYTES), aligned(ISO_BYTES), may_alias));
};
template <class T> struct Number {
  typedef int32_t bits;
};
template <> struct Number<double> {
  typedef int64_t bits;
};
template <class T> using V = typename Vector<T>::type;
template <class T> using I = typename Vector<T>::bits;
template <class T> constexpr int LENGTH = ISO_BYTES / sizeof(T);

template <class T> INLINE V<T> all(T x) { return x - V<T>{}; }
// A number that is used several times, read once: GCC would rather read it anew with each use, and products of few rows then
// wait for memory.
template <class T> INLINE V<T> in_register(V<T> x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#endif
  return x;
}
template <class T> INLINE V<T> pick(I<T> where, V<T> a, V<T> b) { return where ? a : b; }
template <class T> INLINE V<T> number(I<T> where) { return (V<T>)(where & (I<T>)all<T>(T(1))); }
template <class T> constexpr int64_t SIGN = sizeof(T) == 4 ? int64_t(INT32_MIN) : INT64_MIN;
template <class T> INLINE V<T> magnitude(V<T> x) {
  return (V<T>)((I<T>)x & ~(I<T>{} + decltype(I<T>{}[0] + 0)(SIGN<T>)));
}
template <class T> INLINE V<T> signed_as(V<T> x, V<T> sign) {
  return (V<T>)((I<T>)x | ((I<T>)sign & (I<T>{} + decltype(I<T>{}[0] + 0)(SIGN<T>))));
}

// Number by number, for what has no vector form.
template <class T, class F> INLINE V<T> each(V<T> x, F f) {
  V<T> out{};
  for (int i = 0; i < LENGTH<T>; i++) out[i] = f(x[i]);
  return out;
}
template <class T, class F> INLINE V<T> each(V<T> x, V<T> y, F f) {
  V<T> out{};
  for (int i = 0; i < LENGTH<T>; i++) out[i] = f(x[i], y[i]);
  return out;
}

#if defined(ISO_MVEC) && (defined(__AVX512F__) || defined(__AVX2__))
#if defined(__AVX512F__)
#define FLOATS(args, name) _ZGVeN16##args##_##name##f
#define DOUBLES(args, name) _ZGVeN8##args##_##name
typedef __m512 Floats;
typedef __m512d Doubles;
#else
#define FLOATS(args, name) _ZGVdN8##args##_##name##f
#define DOUBLES(args, name) _ZGVdN4##args##_##name
typedef __m256 Floats;
typedef __m256d Doubles;
#endif
#define MVEC1(name)                                                                                                    \
  extern "C" Floats FLOATS(v, name)(Floats);                                                                           \
  extern "C" Doubles DOUBLES(v, name)(Doubles);                                                                        \
  INLINE V<float> v_##name(V<float> x) { return (V<float>)FLOATS(v, name)((Floats)x); }                                \
  INLINE V<double> v_##name(V<double> x) { return (V<double>)DOUBLES(v, name)((Doubles)x); }
#define MVEC2(name)                                                                                                    \
  extern "C" Floats FLOATS(vv, name)(Floats, Floats);                                                                  \
  extern "C" Doubles DOUBLES(vv, name)(Doubles, Doubles);                                                              \
  INLINE V<float> v_##name(V<float> x, V<float> y) { return (V<float>)FLOATS(vv, name)((Floats)x, (Floats)y); }        \
  INLINE V<double> v_##name(V<double> x, V<double> y) {                                                                \
    return (V<double>)DOUBLES(vv, name)((Doubles)x, (Doubles)y);                                                       \
  }
#else
#define MVEC1(name)                                                                                                    \
  INLINE V<float> v_##name(V<float> x) {                                                                               \
    return each<float>(x, [](float a) { return std::name(a); });                                                       \
  }                                                                                                                    \
  INLINE V<double> v_##name(V<double> x) {                                                                             \
    return each<double>(x, [](double a) { return std::name(a); });                                                     \
  }
#define MVEC2(name)                                                                                                    \
  INLINE V<float> v_##name(V<float> x, V<float> y) {                                                                   \
    return each<float>(x, y, [](float a, float b) { return std::name(a, b); });                                        \
  }                                                                                                                    \
  INLINE V<double> v_##name(V<double> x, V<double> y) {                                                                \
    return each<double>(x, y, [](double a, double b) { return std::name(a, b); });                                     \
  }
#endif
MVEC1(exp)
MVEC1(expm1)
MVEC1(log) MVEC1(log1p) MVEC1(sin) MVEC1(cos) MVEC1(tan) MVEC1(sinh) MVEC1(cosh) MVEC1(tanh) MVEC1(atan) MVEC1(erf)
    MVEC2(pow) MVEC2(atan2)

        template <class T>
        INLINE V<T> v_sqrt(V<T> x) {
  return each<T>(x, [](T a) { return std::sqrt(a); });
}

// The smaller of x and a bound; NaN stays.
INLINE V<float> at_most(V<float> x, float bound) {
#if defined(__AVX512F__)
  return (V<float>)_mm512_min_ps((__m512)all<float>(bound), (__m512)x);
#elif defined(__AVX2__)
  return (V<float>)_mm256_min_ps((__m256)all<float>(bound), (__m256)x);
#else
  return pick<float>(x > bound, all<float>(bound), x);
#endif
}

// exp of float, within 1.1 units in the last place: 2ⁿ exp(r), the power in two factors, so that neither overflows.
INLINE V<float> fast_exp(V<float> x) {
  V<float> a = at_most(x, 89.0f);
  a = -at_most(-a, 105.0f);
  V<float> n = a * 1.442695041f + 12582912.0f;
  I<float> power = (I<float>)n - 0x4b400000, half = power >> 1;
  n = n - 12582912.0f;
  V<float> r = a - n * 0.693359375f - n * -2.12194440e-4f;
  V<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  return p * (V<float>)((half + 127) << 23) * (V<float>)((power - half + 127) << 23);
}
INLINE V<double> fast_exp(V<double> x) { return v_exp(x); }

// tanh of float, within 2 units in the last place, ±1 exactly from 9.02 on: (1 − e) / (1 + e) with e = exp(−2|x|) = 2⁻ⁿ (1 + q).
// Halves of both are sums with one rounding of numbers below 1: half a unit each, however small x is, where exp(2|x|) − 1
// over exp(2|x|) + 1 has twice that. q = exp(s) − 1 = s + s² p(s), |s| ≤ ln 2 / 2, is fitted for the least error of the whole.
// K vectors in step: of one alone a processor waits for every result.
template <int K> INLINE void fast_tanh(const V<float> *in, V<float> *out) {
#define EACH _Pragma("GCC unroll 4") for (int k = 0; k < K; k++)
  V<float> x[K], a[K], n[K], power[K], s[K], q[K], half[K], over[K];
  EACH x[k] = in[k];
  EACH a[k] = at_most(magnitude<float>(x[k]), 9.1f);
  EACH n[k] = a[k] * 2.885390081777927f + 12582912.0f; // in its last bits the power of 2
  EACH power[k] = (V<float>)(0x3f000000 - ((I<float>)n[k] << 23)); // a half of it
  EACH s[k] = (n[k] - 12582912.0f) * 0.6931471805599453f - (a[k] + a[k]);
  EACH q[k] = s[k] * 1.3811294920742512e-3f + 8.364317938685417e-3f;
  EACH q[k] = q[k] * s[k] + 4.1667833924293518e-2f;
  EACH q[k] = q[k] * s[k] + 1.666656881570816e-1f;
  EACH q[k] = q[k] * s[k] + 0.5f;
  EACH q[k] = q[k] * (s[k] * s[k]) + s[k];
  EACH half[k] = (0.5f - power[k]) - q[k] * power[k];
  EACH over[k] = (0.5f + power[k]) + q[k] * power[k];
  EACH out[k] = signed_as<float>(half[k] / over[k], x[k]);
#undef EACH
}
INLINE V<float> fast_tanh(V<float> x) {
  fast_tanh<1>(&x, &x);
  return x;
}
INLINE V<double> fast_tanh(V<double> x) { return v_tanh(x); }

template <class T> INLINE V<T> v_sigmoid(V<T> x) {
  V<T> e = fast_exp(-magnitude<T>(x)), s = 1 / (1 + e);
  return pick<T>(x >= 0, s, pick<T>(x != x, x, e * s));
}
template <class T> INLINE V<T> v_softplus(V<T> x) {
  V<T> high = pick<T>(x > 0, x, V<T>{});
  return pick<T>(x > 20, x,
                 pick<T>(x != x, x, high + v_log1p(fast_exp(-magnitude<T>(x))))); // as PyTorch: x itself above 20
}
