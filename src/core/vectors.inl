// Vectors of four, eight and sixteen lanes, and the functions of them. Part of kernels.inl.

// Eight or sixteen lanes. Everything is written once over the vector type; the compiler maps what the CPU lacks.
typedef float F4 __attribute__((vector_size(16)));
typedef float F8 __attribute__((vector_size(32)));
typedef std::int32_t I4 __attribute__((vector_size(16)));
typedef std::int32_t I8 __attribute__((vector_size(32)));
typedef std::int64_t L8 __attribute__((vector_size(64)));
typedef float F16 __attribute__((vector_size(64)));
typedef std::int32_t I16 __attribute__((vector_size(64)));

// The widest vectors of this instruction set, and those that fit any stack but the smallest.
#if defined(__AVX512F__)
typedef F16 Wide;
typedef F8 Plain;
#elif defined(__AVX__)
typedef F8 Wide, Plain;
#else
typedef F4 Wide, Plain;
#endif

template <class F> struct Integers;
template <> struct Integers<F4> { typedef I4 Type; };
template <> struct Integers<F8> { typedef I8 Type; };
template <> struct Integers<F16> { typedef I16 Type; };

template <class F> constexpr int kWidth = static_cast<int>(sizeof(F) / sizeof(float));

// The same choice in every four lanes: 0 to 3 from the four of `a`, 4 to 7 from those of `b`.
#if defined(__clang__)
#define T2M_SHUFFLE(I, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define T2M_SHUFFLE(I, a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
#endif
#define T2M_LANE(i, four, width) ((i) < 4 ? (i) + 4 * (four) : (i) - 4 + 4 * (four) + (width))
#define T2M_FOUR(four, width) \
    T2M_LANE(A, four, width), T2M_LANE(B, four, width), T2M_LANE(C, four, width), T2M_LANE(D, four, width)
template <int A, int B, int C, int D>
T2M_INLINE F4 choose(F4 a, F4 b) {
    return T2M_SHUFFLE(I4, a, b, T2M_FOUR(0, 4));
}
template <int A, int B, int C, int D>
T2M_INLINE F8 choose(F8 a, F8 b) {
    return T2M_SHUFFLE(I8, a, b, T2M_FOUR(0, 8), T2M_FOUR(1, 8));
}
template <int A, int B, int C, int D>
T2M_INLINE F16 choose(F16 a, F16 b) {
    return T2M_SHUFFLE(I16, a, b, T2M_FOUR(0, 16), T2M_FOUR(1, 16), T2M_FOUR(2, 16), T2M_FOUR(3, 16));
}

template <class F>
T2M_INLINE F splat(float x) {
    return x - F{};
}
T2M_INLINE F4 larger(F4 a, F4 b) { return a > b ? a : b; }
T2M_INLINE F4 smaller(F4 a, F4 b) { return a < b ? a : b; }
#if defined(__AVX__)
T2M_INLINE F8 larger(F8 a, F8 b) { return (F8)_mm256_max_ps((__m256)a, (__m256)b); }
T2M_INLINE F8 smaller(F8 a, F8 b) { return (F8)_mm256_min_ps((__m256)a, (__m256)b); }
#else
T2M_INLINE F8 larger(F8 a, F8 b) { return a > b ? a : b; }
T2M_INLINE F8 smaller(F8 a, F8 b) { return a < b ? a : b; }
#endif
#if defined(__AVX512F__)
T2M_INLINE F16 larger(F16 a, F16 b) { return (F16)_mm512_max_ps((__m512)a, (__m512)b); }
T2M_INLINE F16 smaller(F16 a, F16 b) { return (F16)_mm512_min_ps((__m512)a, (__m512)b); }
#else
T2M_INLINE F16 larger(F16 a, F16 b) { return a > b ? a : b; }
T2M_INLINE F16 smaller(F16 a, F16 b) { return a < b ? a : b; }
#endif
template <class F>
T2M_INLINE F load(const float* p) {
    F v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class F>
T2M_INLINE void store(float* p, F v) {
    std::memcpy(p, &v, sizeof v);
}


// Vectors out of fours that lie `stride` floats apart, and back.
template <class F>
T2M_INLINE F load_fours(const float* p, std::int64_t stride) {
    F v;
    for (int i = 0; i < kWidth<F> / 4; ++i) std::memcpy(reinterpret_cast<char*>(&v) + 16 * i, p + i * stride, 16);
    return v;
}
template <class F>
T2M_INLINE void store_fours(float* p, std::int64_t stride, F v) {
    for (int i = 0; i < kWidth<F> / 4; ++i) std::memcpy(p + i * stride, reinterpret_cast<const char*>(&v) + 16 * i, 16);
}
#if defined(__AVX__)
template <>
T2M_INLINE F8 load_fours<F8>(const float* p, std::int64_t stride) {
    return (F8)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + stride), 1);
}
template <>
T2M_INLINE void store_fours<F8>(float* p, std::int64_t stride, F8 v) {
    _mm_storeu_ps(p, _mm256_castps256_ps128((__m256)v));
    _mm_storeu_ps(p + stride, _mm256_extractf128_ps((__m256)v, 1));
}
#endif
#if defined(__AVX512F__)
template <>
T2M_INLINE F16 load_fours<F16>(const float* p, std::int64_t stride) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + stride), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 2 * stride), 2);
    return (F16)_mm512_insertf32x4(v, _mm_loadu_ps(p + 3 * stride), 3);
}
template <>
T2M_INLINE void store_fours<F16>(float* p, std::int64_t stride, F16 v) {
    _mm_storeu_ps(p, _mm512_castps512_ps128((__m512)v));
    _mm_storeu_ps(p + stride, _mm512_extractf32x4_ps((__m512)v, 1));
    _mm_storeu_ps(p + 2 * stride, _mm512_extractf32x4_ps((__m512)v, 2));
    _mm_storeu_ps(p + 3 * stride, _mm512_extractf32x4_ps((__m512)v, 3));
}
#endif

// Lane c of the fours of v[j] becomes lane j of those of v[c].
template <class F>
T2M_INLINE void transpose_fours(F* v) {
    const F a = choose<0, 4, 1, 5>(v[0], v[1]), b = choose<2, 6, 3, 7>(v[0], v[1]);
    const F c = choose<0, 4, 1, 5>(v[2], v[3]), d = choose<2, 6, 3, 7>(v[2], v[3]);
    v[0] = choose<0, 1, 4, 5>(a, c), v[1] = choose<2, 3, 6, 7>(a, c);
    v[2] = choose<0, 1, 4, 5>(b, d), v[3] = choose<2, 3, 6, 7>(b, d);
}

// Nearest integer for |x| < 2^22, without an instruction that baseline CPUs lack.
template <class F>
T2M_INLINE F nearest(F x) {
    return (x + 12582912.0f) - 12582912.0f;
}

// e^x for x <= 0 within 2 ulp, 0 below -60 (keeps denormal numbers out of the lattice).
template <class F>
T2M_INLINE F exponential(F x) {
    typedef typename Integers<F>::Type I;
    const F y = larger(x, splat<F>(-60.0f)) * 1.44269504f;
    const F n = nearest(y);
    const F f = (y - n) * 0.693147181f;
    F p = splat<F>(1.0f / 720.0f);
    p = p * f + 1.0f / 120.0f;
    p = p * f + 1.0f / 24.0f;
    p = p * f + 1.0f / 6.0f;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    const I bits = __builtin_convertvector(n, I) << 23;
    const F r = (F)((I)p + bits);
    return x < splat<F>(-60.0f) ? F{} : r;
}

// log(x) for normal x > 0: 2 atanh((m - 1) / (m + 1)) of the mantissa m in [sqrt(1/2), sqrt(2)].
template <class F>
T2M_INLINE F logarithm(F x) {
    typedef typename Integers<F>::Type I;
    const I bits = (I)x;
    I e = (bits >> 23) - 127;
    F m = (F)((bits & 0x007fffff) | 0x3f800000);
    const I big = m > splat<F>(1.41421356f);
    e -= big;
    m = big ? m * 0.5f : m;
    const F s = (m - 1.0f) / (m + 1.0f);
    const F t = s * s;
    F p = splat<F>(1.0f / 9.0f);
    p = p * t + 1.0f / 7.0f;
    p = p * t + 1.0f / 5.0f;
    p = p * t + 1.0f / 3.0f;
    p = p * t + 1.0f;
    return __builtin_convertvector(e, F) * 0.693147181f + 2.0f * s * p;
}
