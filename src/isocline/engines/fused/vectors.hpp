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
#define INLINE_MEMBER INLINE // of a struct

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
// Numbers of as many lanes as a vector of doubles has.
template <class T> struct Narrow {
  typedef T type __attribute__((vector_size(sizeof(T) * LENGTH<double>), aligned(sizeof(T)), may_alias));
  typedef typename Number<T>::bits bits __attribute__((vector_size(sizeof(T) * LENGTH<double>), aligned(sizeof(T)), may_alias));
};
template <class T> using Numbers = typename Narrow<T>::type;
template <class T> using Masks = typename Narrow<T>::bits;
template <class To, class From> INLINE To converted(From x) { return __builtin_convertvector(x, To); }

template <class T> INLINE V<T> all(T x) { return x - V<T>{}; }
// A number that is used several times, read once: GCC would rather read it anew with each use, and products of few rows then
// wait for memory.
template <class T> INLINE V<T> in_register(V<T> x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#endif
  return x;
}
// Into memory; past the caches where it is not read again soon: they would fetch it before. `stored` follows the last.
template <class T> INLINE void store(V<T> *to, V<T> x, bool past) {
#if defined(__AVX512F__)
  if (past) return _mm512_stream_si512((__m512i *)to, (__m512i)x);
#elif defined(__AVX2__)
  if (past) return _mm256_stream_si256((__m256i *)to, (__m256i)x);
#endif
  (void)past, *to = x;
}
INLINE void stored() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
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

#define EACH _Pragma("GCC unroll 4") for (int k = 0; k < K; k++)
#if defined(__AVX512F__)
// tanh of float, within 1.5 units in the last place, ±1 exactly from 9.02 on: a polynomial in each of 30 intervals, whose 32
// coefficients of a degree fit two registers. Their number i are the last bits of |x| + ¾ without its last 20: intervals are
// the wider the larger |x| is. The polynomial, of r from the interval's lower end, is fitted for the least relative error.
alignas(64) static const float TANH[5][32] = {
    {0.848283648f, 0.905148268f, 0.941375554f, 0.964027584f, 0.978026092f, 0.986614287f, 0.991859734f, 0.995054781f,
     0.996997654f, 0.998894453f, 0.999593139f, 0.999850333f, 0.999944925f, 0.999979734f, 0.999992549f, 0.999997258f,
     0.999998987f, 0.999999881f, 0.0f, 0.0f, 0.0f, 0.0624187477f, 0.124352999f, 0.185333207f, 0.244918659f, 0.3583574f,
     0.462117165f, 0.554599702f, 0.635148942f, 0.703905582f, 0.761594176f, 0.809301078f},
    {0.280417025f, 0.180704653f, 0.113809392f, 0.0706493855f, 0.0434667543f, 0.0265928525f, 0.0162127558f, 0.00986224972f,
     0.00599298533f, 0.00220877863f, 0.000813579827f, 0.000297650811f, 0.000110308174f, 4.08633132e-05f, 1.47287683e-05f,
     5.47578929e-06f, 2.15618797e-06f, -3.789701e-07f, 0.0f, 0.0f, 1.0f, 0.996103227f, 0.98453778f, 0.965647519f,
     0.94001466f, 0.871579647f, 0.786446333f, 0.692425191f, 0.596589148f, 0.504523218f, 0.419969708f, 0.345030129f},
    {-0.237976387f, -0.163522884f, -0.107063025f, -0.0680581778f, -0.0425252579f, -0.0262340046f, -0.0160428118f,
     -0.00973555725f, -0.00592977786f, -0.00218878617f, -0.000810065889f, -0.000280929613f, -0.000111337766f,
     -4.37816998e-05f, -1.30653798e-05f, -5.38107088e-06f, -2.66247616e-06f, 3.56671308e-06f, 0.0f, 0.0f, 8.09774247e-06f,
     -0.0621082187f, -0.122543074f, -0.178620517f, -0.230183199f, -0.312324047f, -0.363402635f, -0.384303927f, -0.37909776f,
     -0.355426461f, -0.319693416f, -0.279188156f},
    {0.10976471f, 0.0875302404f, 0.0621606521f, 0.0415065363f, 0.0269546043f, 0.0168456435f, 0.0101889987f, 0.00588971935f,
     0.00367167406f, 0.00135771383f, 0.000511571416f, 0.000133143418f, 7.45014913e-05f, 3.64347179e-05f, 3.67193479e-06f,
     3.19058995e-06f, 2.22407789e-06f, -7.06195442e-06f, 0.0f, 0.0f, -0.333981782f, -0.330454141f, -0.310380429f,
     -0.298163325f, -0.258364826f, -0.178810671f, -0.0939723924f, -0.0131597249f, 0.0450804494f, 0.086472787f, 0.102253728f,
     0.110818207f},
    {-0.0207821894f, -0.0246671475f, -0.0205127802f, -0.0150345461f, -0.0107116457f, -0.00675188377f, -0.00375997345f,
     -0.00159617362f, -0.00121999322f, -0.000451599626f, -0.000176934002f, -9.83765131e-06f, -2.91349133e-05f,
     -1.97418831e-05f, 2.46933064e-06f, -9.31698935e-07f, -8.45606905e-07f, 4.20238393e-06f, 0.0f, 0.0f, 0.0166224223f,
     0.0714723766f, 0.0685478523f, 0.198238701f, 0.156206608f, 0.170420617f, 0.157624125f, 0.108657353f, 0.0752159655f,
     0.0319190659f, 0.0253798496f, -0.00132375013f}};
// K vectors in step: of one alone a processor waits for every result.
template <int K> INLINE void fast_tanh(const V<float> *in, V<float> *out) {
  V<float> x[K], a[K], place[K], r[K], t[K];
  I<float> i[K];
  auto coefficient = [](int degree, I<float> i) __attribute__((always_inline)) {
    const float *of = TANH[degree];
    return (V<float>)_mm512_permutex2var_ps(_mm512_load_ps(of), (__m512i)i, _mm512_load_ps(of + 16));
  };
  EACH x[k] = in[k];
  EACH a[k] = at_most(magnitude<float>(x[k]), 9.1f);
  EACH place[k] = a[k] + 0.75f;
  EACH i[k] = (I<float>)_mm512_srli_epi32((__m512i)place[k], 20);
  EACH r[k] = a[k] - ((V<float>)((I<float>)place[k] & ~0xfffff) - 0.75f);
  EACH t[k] = coefficient(4, i[k]);
  EACH t[k] = t[k] * r[k] + coefficient(3, i[k]);
  EACH t[k] = t[k] * r[k] + coefficient(2, i[k]);
  EACH t[k] = t[k] * r[k] + coefficient(1, i[k]);
  EACH t[k] = t[k] * r[k] + coefficient(0, i[k]);
  EACH out[k] = signed_as<float>(t[k], x[k]);
}
#else
// tanh of float, within 2 units in the last place, ±1 exactly from 9.02 on: (1 − e) / (1 + e) with e = exp(−2|x|) = 2⁻ⁿ (1 + q).
// Halves of both are sums with one rounding of numbers below 1: half a unit each, however small x is, where exp(2|x|) − 1
// over exp(2|x|) + 1 has twice that. q = exp(s) − 1 = s + s² p(s), |s| ≤ ln 2 / 2, is fitted for the least error of the whole.
// K vectors in step: of one alone a processor waits for every result.
template <int K> INLINE void fast_tanh(const V<float> *in, V<float> *out) {
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
}
#endif
#undef EACH
INLINE V<float> fast_tanh(V<float> x) {
  fast_tanh<1>(&x, &x);
  return x;
}
INLINE V<double> fast_tanh(V<double> x) { return v_tanh(x); }
template <int K> INLINE void fast_tanh(const V<double> *in, V<double> *out) {
  for (int k = 0; k < K; k++) out[k] = v_tanh(in[k]);
}

template <class T> INLINE V<T> v_sigmoid(V<T> x) {
  V<T> e = fast_exp(-magnitude<T>(x)), s = 1 / (1 + e);
  return pick<T>(x >= 0, s, pick<T>(x != x, x, e * s));
}
template <class T> INLINE V<T> v_softplus(V<T> x) {
  V<T> high = pick<T>(x > 0, x, V<T>{});
  return pick<T>(x > 20, x,
                 pick<T>(x != x, x, high + v_log1p(fast_exp(-magnitude<T>(x))))); // as PyTorch: x itself above 20
}
