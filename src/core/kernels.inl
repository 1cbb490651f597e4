// The hot loops, included once per instruction set with T2M_ISA set.
//
// Semantics: Adams, Baek & Davis 2010 with the conventions of Krähenbühl & Koltun 2011: features elevated with
// sqrt(2/3) (d + 1), blur v + (n1 + n2) / 2 along each of the d + 1 axes in order, slice scale 1 / (1 + 2^-d).
//
// Speed: a vertex is (remainder k, cell q) with coordinates k + (d + 1) q_i. Packed into 64 bits, every corner of
// a simplex and every neighbour along an axis is one addition away. Simplices are hashed before vertices, since
// neighbouring pixels mostly share theirs. Vectors run over pixels in the build and over channels in the filters.
#include "lattice.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#define T2M_JOIN_(a, b) a##b
#define T2M_JOIN(a, b) T2M_JOIN_(a, b)
#define T2M_NAME_(a) #a
#define T2M_NAME(a) T2M_NAME_(a)

namespace tag2mask {
namespace {

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

#if defined(__clang__)
#define T2M_SHUFFLE4(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#define T2M_SHUFFLE8(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#define T2M_SHUFFLE16(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define T2M_SHUFFLE4(v, ...) __builtin_shuffle(v, I4{__VA_ARGS__})
#define T2M_SHUFFLE8(v, ...) __builtin_shuffle(v, I8{__VA_ARGS__})
#define T2M_SHUFFLE16(v, ...) __builtin_shuffle(v, I16{__VA_ARGS__})
#endif

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

// ---------------------------------------------------------------------------------------------- build

struct CellSlot {
    std::uint64_t key;
    std::uint32_t ranks;
    std::int32_t id;  // -1: free
};

struct VertexSlot {
    std::uint64_t key;
    std::int64_t id;  // -1: free
};

// Open addressing over slots that carry `key` and `id`; at most half full.
template <class Slot>
struct Table {
    Buffer<Slot> slots;
    int bits = 12;
    std::int64_t used = 0;

    T2M_INLINE static std::uint64_t mix(std::uint64_t key, std::uint32_t extra) {
        const std::uint64_t h = (key ^ (static_cast<std::uint64_t>(extra) * 0xD6E8FEB86659FD93ull)) * 0x9E3779B97F4A7C15ull;
        return h ^ (h >> 29) * 0xBF58476D1CE4E5B9ull;
    }
    static bool clear(Buffer<Slot>& s, int bits) {
        if (!s.resize(std::size_t{1} << bits)) return false;
        std::memset(static_cast<void*>(s.data), 0xff, s.size * sizeof(Slot));
        return true;
    }
    bool start(std::int64_t expected) {
        while (bits < 20 && (std::int64_t{1} << bits) < 2 * expected) ++bits;
        return clear(slots, bits);
    }
    T2M_INLINE void prefetch(std::uint64_t key, std::uint32_t extra) const {
        __builtin_prefetch(slots.data + (mix(key, extra) >> (64 - bits)));
    }
};

T2M_INLINE std::uint32_t ranks_of(const CellSlot& s) { return s.ranks; }
T2M_INLINE std::uint32_t ranks_of(const VertexSlot&) { return 0; }
T2M_INLINE void set(CellSlot& s, std::uint64_t key, std::uint32_t ranks, std::int64_t id) {
    s.key = key, s.ranks = ranks, s.id = static_cast<std::int32_t>(id);
}
T2M_INLINE void set(VertexSlot& s, std::uint64_t key, std::uint32_t, std::int64_t id) { s.key = key, s.id = id; }

// The slot that holds the key, or the free slot where it belongs.
template <class Slot>
T2M_INLINE Slot& seek(const Buffer<Slot>& slots, int bits, std::uint64_t key, std::uint32_t ranks) {
    const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
    std::uint64_t h = Table<Slot>::mix(key, ranks) >> (64 - bits);
    while (slots.data[h].id >= 0 && (slots.data[h].key != key || ranks_of(slots.data[h]) != ranks)) h = (h + 1) & mask;
    return slots.data[h];
}

template <class Slot>
bool grow(Table<Slot>& table) {
    Buffer<Slot> next;
    const int bits = table.bits + 1;
    if (!Table<Slot>::clear(next, bits)) return false;
    for (std::size_t i = 0; i < table.slots.size; ++i) {
        const Slot& s = table.slots[i];
        if (s.id >= 0) seek(next, bits, s.key, ranks_of(s)) = s;
    }
    table.slots = static_cast<Buffer<Slot>&&>(next);
    table.bits = bits;
    return true;
}

// The id of a key, `fresh` when it was not there and was given `table.used`; -1 without memory.
template <class Slot>
T2M_INLINE std::int64_t insert(Table<Slot>& table, std::uint64_t key, std::uint32_t ranks, bool& fresh) {
    Slot* slot = &seek(table.slots, table.bits, key, ranks);
    fresh = slot->id < 0;
    if (!fresh) return slot->id;
    if (2 * (table.used + 1) > (std::int64_t{1} << table.bits)) {
        if (!grow(table)) return -1;
        slot = &seek(table.slots, table.bits, key, ranks);
    }
    set(*slot, key, ranks, table.used);
    return table.used++;
}

// How cells are packed: field i holds q_i - low[i] from bit shift[i]; the lowest four bits hold the remainder.
struct Packing {
    std::int32_t low[kMaxDims];
    int shift[kMaxDims];
};

template <int D>
Status pack_bounds(const float* features, std::int64_t pixels, const float* scale, Packing& packing) {
    double lo[D + 1] = {}, hi[D + 1] = {};  // interval of each elevated coordinate
    for (int i = 0; i < D; ++i) {
        const float* f = features + i * pixels;
        F8 low8 = splat<F8>(f[0]), high8 = low8, wrong8 = {};
        for (std::int64_t p = 0; p < pixels; p += kLanes) {
            F8 x = splat<F8>(f[0]);
            std::memcpy(&x, f + p, sizeof(float) * (pixels - p < kLanes ? pixels - p : kLanes));
            low8 = smaller(x, low8);
            high8 = larger(x, high8);
            wrong8 += x * 0.0f;  // NaN when a feature is infinite or NaN
        }
        float a = f[0], b = f[0], wrong = 0.0f;
        for (int p = 0; p < kLanes; ++p) {
            a = low8[p] < a ? low8[p] : a;
            b = high8[p] > b ? high8[p] : b;
            wrong += wrong8[p];
        }
        if (!(wrong == 0.0f)) return Status::not_finite;
        const double low = static_cast<double>(a) * scale[i], high = static_cast<double>(b) * scale[i];
        for (int j = 0; j <= i; ++j) lo[j] += low, hi[j] += high;
        lo[i + 1] -= (i + 1) * high, hi[i + 1] -= (i + 1) * low;
    }
    int bit = 4;
    for (int i = 0; i < D; ++i) {
        const double low = lo[i] / (D + 1) - 4.0, high = hi[i] / (D + 1) + 4.0;
        if (low < -2.0e6 || high > 2.0e6) return Status::too_fine;  // float32 no longer tells the cells apart
        packing.low[i] = static_cast<std::int32_t>(low) - 1;
        packing.shift[i] = bit;
        const double span = high - packing.low[i] + 2.0;
        for (double reach = 1.0; reach < span; reach *= 2.0) ++bit;
    }
    return bit <= 64 ? Status::ok : Status::too_fine;
}

// Eight pixels in the lattice: packed cell, ranks of the first D coordinates (4 bits each), barycentric weights.
template <int D>
struct Located {
    std::uint64_t key[kLanes];
    std::uint32_t ranks[kLanes];
    float weight[D + 1][kLanes];
};

template <int D>
T2M_INLINE void locate(const F8* f, const float* scale, const Packing& packing, Located<D>& out) {
    const float down = 1.0f / (D + 1);
    F8 e[D + 1], r[D + 1];
    F8 sum = {};
    for (int j = D; j > 0; --j) {
        const F8 c = f[j - 1] * scale[j - 1];
        e[j] = sum - static_cast<float>(j) * c;
        sum += c;
    }
    e[0] = sum;
    sum = F8{};
    for (int i = 0; i <= D; ++i) {
        r[i] = nearest(e[i] * down);
        sum += r[i];
        e[i] -= r[i] * static_cast<float>(D + 1);
    }
    I8 rank[D + 1] = {};
    for (int i = 0; i < D; ++i) {
        for (int j = i + 1; j <= D; ++j) {
            const I8 less = e[i] < e[j];
            rank[i] -= less;
            rank[j] += less + 1;
        }
    }
    // The rounded point may lie beside the plane of coordinates with sum 0: walk back along the ranks.
    const I8 beside = __builtin_convertvector(sum, I8);
    L8 key = {};
    I8 ranks = {};
    for (int i = 0; i <= D; ++i) {
        I8 k = rank[i] + beside;
        const I8 step = (k > D) - (k < 0);  // -1 where k is too large, 1 where it is negative
        k += step * (D + 1);
        const F8 move = __builtin_convertvector(step, F8);
        e[i] = e[i] * down - move;
        if (i < D) {
            const I8 q = __builtin_convertvector(r[i] + move, I8) - packing.low[i];
            key += __builtin_convertvector(q, L8) << packing.shift[i];
            ranks |= k << (4 * i);
        }
    }
    // By rank the fractional parts descend, so sorting them replaces a look-up per pixel.
    for (int i = 0; i < D; ++i) {
        for (int j = 0; j < D - i; ++j) {
            const F8 high = larger(e[j], e[j + 1]);
            e[j + 1] = smaller(e[j], e[j + 1]);
            e[j] = high;
        }
    }
    const F8 first = 1.0f + e[D] - e[0];
    std::memcpy(out.weight[0], &first, sizeof first);
    for (int k = 1; k <= D; ++k) {
        const F8 w = e[D - k] - e[D + 1 - k];
        std::memcpy(out.weight[k], &w, sizeof w);
    }
    std::memcpy(out.key, &key, sizeof key);
    std::memcpy(out.ranks, &ranks, sizeof ranks);
}

template <int D>
struct Builder {
    Lattice& lattice;
    Packing packing;
    Table<CellSlot> cells;
    Table<VertexSlot> verts;
    Buffer<std::uint64_t> keys;  // of the vertices, by id

    // Corner r + 1 of a simplex lies one step below corner r along the coordinate of rank D - r.
    bool add_corners(std::uint64_t key, std::uint32_t ranks, std::int64_t cell) {
        const int stride = lattice.corner_stride;
        if (lattice.corners.size < static_cast<std::size_t>((cell + 1) * stride)
            && !lattice.corners.resize(static_cast<std::size_t>(2 * (cell + 1) * stride))) return false;
        std::uint64_t unit_of_rank[16] = {};
        for (int i = 0; i < D; ++i) unit_of_rank[(ranks >> (4 * i)) & 15u] = std::uint64_t{1} << packing.shift[i];
        std::int32_t* corner = lattice.corners.data + cell * stride;
        for (int r = 0; r <= D; ++r) {
            bool fresh = false;
            const std::int64_t id = insert(verts, key, 0, fresh);
            if (id < 0) return false;
            if (fresh) {
                if (keys.size <= static_cast<std::size_t>(id) && !keys.resize(static_cast<std::size_t>(2 * id + 64))) return false;
                keys[static_cast<std::size_t>(id)] = key;
            }
            corner[r] = static_cast<std::int32_t>(id) + 1;
            key += 1 - unit_of_rank[D - r];
        }
        return true;
    }

    bool add_neighbours() {
        const std::int64_t count = verts.used;
        if (!lattice.neighbours.resize(static_cast<std::size_t>((D + 1) * (count + 1) * 2))) return false;
        lattice.neighbours.zero();
        std::uint64_t all = 0;
        for (int i = 0; i < D; ++i) all += std::uint64_t{1} << packing.shift[i];
        for (int j = 0; j <= D; ++j) {
            const std::uint64_t unit = j < D ? std::uint64_t{1} << packing.shift[j] : 0;
            std::int32_t* n = lattice.neighbours.data + static_cast<std::int64_t>(j) * (count + 1) * 2;
            for (std::int64_t v = 0; v < count; ++v) {
                const std::uint64_t key = keys[static_cast<std::size_t>(v)];
                const std::uint64_t other = (key & 15u) != 0 ? key - 1 + unit : key + D - all + unit;
                const std::int64_t u = seek(verts.slots, verts.bits, other, 0).id;
                if (u < 0) continue;
                n[2 * (v + 1)] = static_cast<std::int32_t>(u) + 1;
                n[2 * (u + 1) + 1] = static_cast<std::int32_t>(v) + 1;
            }
        }
        return true;
    }
};

template <int D>
Status build_dims(Lattice& out, const float* features, std::int64_t pixels) {
    out.dims = D;
    out.pixels = pixels;
    out.corner_stride = (D + 4) / 4 * 4;
    Builder<D> b{out, {}, {}, {}, {}};
    if (!out.cell.resize(pixels) || !out.weights.resize(pixels * (D + 1)) || !b.cells.start(pixels / 8) || !b.verts.start(pixels / 16)
        || !b.keys.resize(4096)) return Status::out_of_memory;
    float scale[D];
    // Rounded in two steps like the reference, or a pixel on the border of two cells would fall into the other one.
    const double spread = static_cast<float>((D + 1) * __builtin_sqrt(2.0 / 3.0));
    for (int i = 0; i < D; ++i) {
        scale[i] = static_cast<float>(spread / __builtin_sqrt((i + 1.0) * (i + 2.0)));
    }
    if (const Status status = pack_bounds<D>(features, pixels, scale, b.packing); status != Status::ok) return status;

    std::uint64_t last_key = 0;
    std::uint32_t last_ranks = ~0u;
    std::int64_t last_cell = -1;
    Located<D> at;
    for (std::int64_t start = 0; start < pixels; start += kLanes) {
        const int lanes = static_cast<int>(pixels - start < kLanes ? pixels - start : kLanes);
        F8 f[D];
        for (int i = 0; i < D; ++i) {
            if (lanes == kLanes) {
                f[i] = load<F8>(features + i * pixels + start);
            } else {
                f[i] = F8{};
                std::memcpy(&f[i], features + i * pixels + start, sizeof(float) * lanes);
            }
        }
        locate<D>(f, scale, b.packing, at);
        for (int p = 0; p < lanes; ++p) b.cells.prefetch(at.key[p], at.ranks[p]);
        for (int p = 0; p < lanes; ++p) {
            float* w = out.weights.data + (start + p) * (D + 1);
            for (int k = 0; k <= D; ++k) w[k] = at.weight[k][p];
            const std::uint64_t key = at.key[p];
            const std::uint32_t ranks = at.ranks[p];
            if (key != last_key || ranks != last_ranks) {
                bool fresh = false;
                last_cell = insert(b.cells, key, ranks, fresh);
                if (last_cell < 0 || (fresh && !b.add_corners(key, ranks, last_cell))) return Status::out_of_memory;
                last_key = key, last_ranks = ranks;
            }
            out.cell[static_cast<std::size_t>(start + p)] = static_cast<std::int32_t>(last_cell);
        }
    }
    out.vertices = static_cast<std::int32_t>(b.verts.used);
    return b.add_neighbours() ? Status::ok : Status::out_of_memory;
}

Status build(Lattice& out, const float* features, int dims, std::int64_t pixels) {
    switch (dims) {
        case 1: return build_dims<1>(out, features, pixels);
        case 2: return build_dims<2>(out, features, pixels);
        case 3: return build_dims<3>(out, features, pixels);
        case 4: return build_dims<4>(out, features, pixels);
        case 5: return build_dims<5>(out, features, pixels);
        case 6: return build_dims<6>(out, features, pixels);
        case 7: return build_dims<7>(out, features, pixels);
        default: return build_dims<8>(out, features, pixels);
    }
}

// --------------------------------------------------------------------------------------------- filter

template <class Work>
void parallel(const Crew& crew, int parts, const Work& work) {
    if (crew.run == nullptr || parts == 1) {
        for (int part = 0; part < parts; ++part) work(part);
        return;
    }
    crew.run(crew.self, parts, [](const void* context, int part) { (*static_cast<const Work*>(context))(part); }, &work);
}

struct Range {
    std::int64_t begin, end;
};

// Part `part` of [0, count) in multiples of `grain`.
T2M_INLINE Range share(std::int64_t count, std::int64_t grain, int part, int parts) {
    const std::int64_t units = (count + grain - 1) / grain;
    const std::int64_t begin = units * part / parts * grain, end = units * (part + 1) / parts * grain;
    return {begin, end < count ? end : count};
}

// Where the pixels are in a lattice: C corners each, or as many as the lattice has where C is 0. A copy of the pointers,
// which a compiler can keep in registers while values are stored.
template <int C>
struct Places {
    const std::int32_t* const cell;
    const std::int32_t* const corner;
    const float* const weight;
    const int dims;

    T2M_INLINE Places(const Lattice& lattice, const float* weights)
        : cell(lattice.cell.data), corner(lattice.corners.data), weight(weights), dims(lattice.dims) {}
    T2M_INLINE int count() const { return C > 0 ? C : dims + 1; }
    T2M_INLINE const std::int32_t* corners(std::int64_t p) const {
        return corner + static_cast<std::int64_t>(cell[p]) * ((count() + 3) / 4 * 4);
    }
    T2M_INLINE const float* weights(std::int64_t p) const { return weight + p * count(); }
};

// NV vectors of the values of one pixel, out of `lanes` floats per vertex.
template <class F, int NV, int C>
T2M_INLINE void gather(const Places<C>& places, std::int64_t p, const float* values, std::int64_t lanes, F* out) {
    const std::int32_t* corner = places.corners(p);
    const float* w = places.weights(p);
    for (int v = 0; v < NV; ++v) out[v] = F{};
    for (int k = 0; k < places.count(); ++k) {
        const float* x = values + corner[k] * lanes;
        for (int v = 0; v < NV; ++v) out[v] += w[k] * load<F>(x + v * kWidth<F>);
    }
}

template <class F, int NV, int C>
T2M_INLINE void scatter(const Places<C>& places, std::int64_t p, float* values, std::int64_t lanes, const F* in) {
    const std::int32_t* corner = places.corners(p);
    const float* w = places.weights(p);
    for (int k = 0; k < places.count(); ++k) {
        float* x = values + corner[k] * lanes;
        for (int v = 0; v < NV; ++v) store(x + v * kWidth<F>, load<F>(x + v * kWidth<F>) + w[k] * in[v]);
    }
}

// to = from + (neighbours of from) / 2 along one axis, for the vertices of a range; vertex 0 stays 0.
template <class F, int NV>
void blur_range(const std::int32_t* neighbours, const float* from, float* to, Range range, std::int64_t lanes) {
    constexpr int W = kWidth<F>;
    for (std::int64_t i = range.begin; i < range.end; ++i) {
        const float* n1 = from + neighbours[2 * i] * lanes;
        const float* n2 = from + neighbours[2 * i + 1] * lanes;
        const std::int64_t at = i * lanes;
        for (int v = 0; v < NV; ++v) {
            store(to + at + v * W, load<F>(from + at + v * W) + 0.5f * (load<F>(n1 + v * W) + load<F>(n2 + v * W)));
        }
    }
}

// The same for any number of lanes: 1, 4 or a multiple of 8.
void blur_any(const std::int32_t* neighbours, const float* from, float* to, Range range, std::int64_t lanes) {
    if (lanes == 1) {
        for (std::int64_t i = range.begin; i < range.end; ++i) {
            to[i] = from[i] + 0.5f * (from[neighbours[2 * i]] + from[neighbours[2 * i + 1]]);
        }
        return;
    }
    switch (lanes) {
        case 4: return blur_range<F4, 1>(neighbours, from, to, range, lanes);
        case 8: return blur_range<F8, 1>(neighbours, from, to, range, lanes);
        case 16: return blur_range<F8, 2>(neighbours, from, to, range, lanes);
        case 24: return blur_range<F8, 3>(neighbours, from, to, range, lanes);
        case 32: return blur_range<F8, 4>(neighbours, from, to, range, lanes);
        case 48: return blur_range<F8, 6>(neighbours, from, to, range, lanes);
        default:
            for (std::int64_t v = 0; v < lanes; v += kLanes) blur_range<F8, 1>(neighbours, from + v, to + v, range, lanes);
    }
}

// Values of the vertices while they are blurred.
struct Vertices {
    Buffer<float> now, spare;

    bool start(const Lattice& lattice, std::int64_t lanes) {
        const std::size_t count = static_cast<std::size_t>((lattice.vertices + 1) * lanes);
        return now.resize(count) && spare.resize(count);
    }
    // Step `step` of the blur; after the last one `now` holds the result.
    void blur(const Lattice& lattice, int step, bool reverse, std::int64_t lanes, const Crew& crew) {
        const int axis = reverse ? lattice.dims - step : step;
        const std::int64_t count = lattice.vertices;
        const std::int32_t* neighbours = lattice.neighbours.data + axis * (count + 1) * 2;
        const int parts = parts_of(count * lanes, crew);
        float* const to = spare.data;
        const float* const from = now.data;
        std::memset(to, 0, static_cast<std::size_t>(lanes) * sizeof(float));
        parallel(crew, parts, [=](int part) {
            Range range = share(count, 1, part, parts);
            ++range.begin, ++range.end;
            blur_any(neighbours, from, to, range, lanes);
        });
        swap(now, spare);
    }
    // Parts do not change what is computed here, so they follow the threads.
    static int parts_of(std::int64_t work, const Crew& crew) { return work < 65536 ? 1 : crew.size; }
    static void swap(Buffer<float>& a, Buffer<float>& b) {
        Buffer<float> t = static_cast<Buffer<float>&&>(a);
        a = static_cast<Buffer<float>&&>(b);
        b = static_cast<Buffer<float>&&>(t);
    }
};

template <int C>
Status normalized_weights_of(const Lattice& lattice, float* out) {
    const Places<C> places(lattice, lattice.weights.data);
    const int corners = places.count();
    Vertices sums;
    if (!sums.start(lattice, 1)) return Status::out_of_memory;
    sums.now.zero();
    float* const a = sums.now.data;
    for (std::int64_t p = 0; p < lattice.pixels; ++p) {
        const std::int32_t* corner = places.corners(p);
        const float* w = places.weights(p);
        for (int k = 0; k < corners; ++k) a[corner[k]] += w[k];
    }
    for (int step = 0; step <= lattice.dims; ++step) sums.blur(lattice, step, false, 1, Crew{});
    const float* const b = sums.now.data;
    const float scale = lattice.slice_scale();
    for (std::int64_t p = 0; p < lattice.pixels; ++p) {
        const std::int32_t* corner = places.corners(p);
        const float* w = places.weights(p);
        float sum = 0.0f;
        for (int k = 0; k < corners; ++k) sum += w[k] * b[corner[k]];
        const float n = 1.0f / __builtin_sqrtf(sum * scale + 1e-20f);
        for (int k = 0; k < corners; ++k) out[p * corners + k] = w[k] * n;
    }
    return Status::ok;
}

Status normalized_weights(const Lattice& lattice, float* out) {
    switch (lattice.dims) {
        case 2: return normalized_weights_of<3>(lattice, out);
        case 5: return normalized_weights_of<6>(lattice, out);
        default: return normalized_weights_of<0>(lattice, out);
    }
}

constexpr int kBlock = 64;  // pixels that are turned from planes to pixel-major at a time

template <class F, int NV, int C>
void splat_planes(const Lattice& lattice, const float* in, int channels, float* values, float* block, Range range) {
    constexpr int W = kWidth<F>, lanes = NV * W;
    const Places<C> places(lattice, lattice.weights.data);
    for (std::int64_t start = range.begin; start < range.end; start += kBlock) {
        const int count = static_cast<int>(range.end - start < kBlock ? range.end - start : kBlock);
        for (int c = 0; c < channels; ++c) {
            const float* const from = in + c * lattice.pixels + start;
            for (int p = 0; p < count; ++p) block[p * lanes + c] = from[p];
        }
        for (int p = 0; p < count; ++p) {
            F x[NV];
            for (int v = 0; v < NV; ++v) x[v] = load<F>(block + p * lanes + v * W);
            scatter<F, NV, C>(places, start + p, values, lanes, x);
        }
    }
}

template <class F, int NV, int C>
void slice_planes(const Lattice& lattice, float* out, int channels, const float* values, float* block, Range range) {
    constexpr int W = kWidth<F>, lanes = NV * W;
    const Places<C> places(lattice, lattice.weights.data);
    const float scale = lattice.slice_scale();
    for (std::int64_t start = range.begin; start < range.end; start += kBlock) {
        const int count = static_cast<int>(range.end - start < kBlock ? range.end - start : kBlock);
        for (int p = 0; p < count; ++p) {
            F x[NV];
            gather<F, NV, C>(places, start + p, values, lanes, x);
            for (int v = 0; v < NV; ++v) store(block + p * lanes + v * W, x[v] * scale);
        }
        for (int c = 0; c < channels; ++c) {
            float* const to = out + c * lattice.pixels + start;
            for (int p = 0; p < count; ++p) to[p] = block[p * lanes + c];
        }
    }
}

// Several threads splat a large picture in parts, each into vertices of its own, which are then added. So the last bits
// of a large picture depend on whether several threads share it; for a given number of threads they are always the same.
T2M_INLINE int splat_parts(std::int64_t pixels, const Crew& crew) {
    return crew.size == 1 || pixels < kSharedPixels ? 1 : pixels < (1 << 18) && crew.size < 4 ? 2 : 4;
}

// Sums of the parts [parts][count].
void add_parts(const float* values, float* sums, std::int64_t count, int parts, const Crew& crew) {
    const int shares = Vertices::parts_of(count, crew);
    parallel(crew, shares, [=](int part) {
        const Range range = share(count, kLanes, part, shares);
        const float *second = values + count, *third = values + 2 * count, *fourth = values + 3 * count;
        if (parts == 2) {
            for (std::int64_t i = range.begin; i < range.end; ++i) sums[i] = values[i] + second[i];
        } else {
            for (std::int64_t i = range.begin; i < range.end; ++i) sums[i] = values[i] + second[i] + third[i] + fourth[i];
        }
    });
}

// What was splatted becomes what is sliced: the parts in `next` added up and blurred into `values.now`.
void turn(const Lattice& lattice, Vertices& values, Buffer<float>& next, std::int64_t lanes, int parts, bool reverse, const Crew& crew) {
    if (parts == 1) Vertices::swap(values.now, next);
    else add_parts(next.data, values.now.data, (lattice.vertices + 1) * lanes, parts, crew);
    for (int step = 0; step <= lattice.dims; ++step) values.blur(lattice, step, reverse, lanes, crew);
}

template <class F, int NV, int C>
Status filter_vectors(const Lattice& lattice, const float* in, float* out, int channels, bool transpose, const Crew& crew) {
    constexpr std::int64_t lanes = NV * kWidth<F>;
    const std::int64_t count = (lattice.vertices + 1) * lanes;
    const int parts = splat_parts(lattice.pixels, crew);
    Vertices values;
    Buffer<float> next(static_cast<std::size_t>(parts * count));
    Buffer<float> blocks(static_cast<std::size_t>(parts * kBlock * lanes));
    if (!values.start(lattice, lanes) || !next.ok() || !blocks.ok()) return Status::out_of_memory;
    next.zero();
    blocks.zero();
    float* const sums = next.data;
    float* const block = blocks.data;
    parallel(crew, parts, [&, sums, block](int part) {
        splat_planes<F, NV, C>(lattice, in, channels, sums + part * count, block + part * kBlock * lanes,
                               share(lattice.pixels, kBlock, part, parts));
    });
    turn(lattice, values, next, lanes, parts, transpose, crew);
    const float* const blurred = values.now.data;
    parallel(crew, parts, [&, blurred, block](int part) {
        slice_planes<F, NV, C>(lattice, out, channels, blurred, block + part * kBlock * lanes,
                               share(lattice.pixels, kBlock, part, parts));
    });
    return Status::ok;
}

template <int C>
Status filter_corners(const Lattice& lattice, const float* in, float* out, int channels, bool transpose, const Crew& crew) {
    for (int c = 0; c < channels; c += 4 * kLanes) {
        const int count = channels - c < 4 * kLanes ? channels - c : 4 * kLanes;
        const float* x = in + c * lattice.pixels;
        float* y = out + c * lattice.pixels;
        Status status = Status::ok;
        switch ((count + kLanes - 1) / kLanes) {
            case 1: status = filter_vectors<F8, 1, C>(lattice, x, y, count, transpose, crew); break;
            case 2: status = filter_vectors<F8, 2, C>(lattice, x, y, count, transpose, crew); break;
            case 3: status = filter_vectors<F8, 3, C>(lattice, x, y, count, transpose, crew); break;
            default: status = filter_vectors<F8, 4, C>(lattice, x, y, count, transpose, crew);
        }
        if (status != Status::ok) return status;
    }
    return Status::ok;
}

Status filter(const Lattice& lattice, const float* in, float* out, int channels, bool transpose, const Crew& crew) {
    switch (lattice.dims) {
        case 2: return filter_corners<3>(lattice, in, out, channels, transpose, crew);
        case 5: return filter_corners<6>(lattice, in, out, channels, transpose, crew);
        default: return filter_corners<0>(lattice, in, out, channels, transpose, crew);
    }
}

// ----------------------------------------------------------------------------------------- mean field

// Larger than any exponent that matters is from 0; keeps the padding lanes of a run at probability 0.
constexpr float kNever = -1e30f;

bool load_scores(const float* const* planes, const std::int64_t* index, std::int64_t pixels, const Stack& stack, float* out) {
    const int lanes = stack.lanes;
    I8 wrong = {};
    for (std::int64_t start = 0; start < pixels; start += kLanes) {
        const int count = static_cast<int>(pixels - start < kLanes ? pixels - start : kLanes);
        for (int i = 0; i < count * lanes; ++i) out[start * lanes + i] = kNever;
        for (int r = 0; r < stack.runs; ++r) {
            for (int l = 0; l < stack.labels; ++l) {
                const float* plane = planes[r * stack.labels + l];
                float score[kLanes] = {1, 1, 1, 1, 1, 1, 1, 1};
                if (index == nullptr && count == kLanes) std::memcpy(score, plane + start, sizeof score);
                else for (int p = 0; p < count; ++p) score[p] = plane[index != nullptr ? index[start + p] : start + p];
                const F8 raw = load<F8>(score);
                wrong |= raw != raw;
                store(score, logarithm(smaller(larger(raw, splat<F8>(1e-5f)), splat<F8>(1.0f))));
                float* to = out + start * lanes + r * stack.run_lanes + l;
                for (int p = 0; p < count; ++p) to[p * lanes] = score[p];
            }
        }
    }
    int any = 0;
    for (int p = 0; p < kLanes; ++p) any |= wrong[p];
    return any == 0;
}

T2M_INLINE F4 max_of_four(F4 x) {
    x = larger(x, T2M_SHUFFLE4(x, 2, 3, 0, 1));
    return larger(x, T2M_SHUFFLE4(x, 1, 0, 3, 2));
}
T2M_INLINE F4 sum_of_four(F4 x) {
    x += T2M_SHUFFLE4(x, 2, 3, 0, 1);
    return x + T2M_SHUFFLE4(x, 1, 0, 3, 2);
}
T2M_INLINE F8 max_of_four(F8 x) {
    x = larger(x, T2M_SHUFFLE8(x, 2, 3, 0, 1, 6, 7, 4, 5));
    return larger(x, T2M_SHUFFLE8(x, 1, 0, 3, 2, 5, 4, 7, 6));
}
T2M_INLINE F8 sum_of_four(F8 x) {
    x += T2M_SHUFFLE8(x, 2, 3, 0, 1, 6, 7, 4, 5);
    return x + T2M_SHUFFLE8(x, 1, 0, 3, 2, 5, 4, 7, 6);
}
T2M_INLINE F16 max_of_four(F16 x) {
    x = larger(x, T2M_SHUFFLE16(x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return larger(x, T2M_SHUFFLE16(x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
}
T2M_INLINE F16 sum_of_four(F16 x) {
    x += T2M_SHUFFLE16(x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return x + T2M_SHUFFLE16(x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}
T2M_INLINE F8 swap_halves(F8 x) { return T2M_SHUFFLE8(x, 4, 5, 6, 7, 0, 1, 2, 3); }

// Softmax of four lanes each, for `count` floats, a multiple of 16 floats behind `x`.
T2M_INLINE void softmax_of_fours(float* x, int count) {
    for (int i = 0; i < count; i += kWidth<Wide>) {
        const Wide v = load<Wide>(x + i);
        const Wide e = exponential(v - max_of_four(v));
        store(x + i, e / sum_of_four(e));
    }
}

// Softmax of runs of RV vectors each (RV 0: `run_vectors`).
template <int RV>
T2M_INLINE void softmax_of_runs(float* x, std::int64_t count, int run_vectors) {
    const int rv = RV > 0 ? RV : run_vectors;
    const std::int64_t run = rv * kLanes;
    for (float* const end = x + count; x < end; x += run) {
        F8 top = load<F8>(x);
        for (int v = 1; v < rv; ++v) top = larger(top, load<F8>(x + v * kLanes));
        top = max_of_four(top);
        top = larger(top, swap_halves(top));
        F8 sum = {};
        for (int v = 0; v < rv; ++v) {
            const F8 e = exponential(load<F8>(x + v * kLanes) - top);
            sum += e;
            store(x + v * kLanes, e);
        }
        sum = sum_of_four(sum);
        sum += swap_halves(sum);
        const F8 scale = 1.0f / sum;
        for (int v = 0; v < rv; ++v) store(x + v * kLanes, load<F8>(x + v * kLanes) * scale);
    }
}

T2M_INLINE void softmax(float* x, int pixels, const Stack& stack) {
    const int count = pixels * stack.lanes;
    if (stack.run_lanes == 4) return softmax_of_fours(x, count);
    switch (stack.run_lanes) {
        case 8: return softmax_of_runs<1>(x, count, 1);
        case 24: return softmax_of_runs<3>(x, count, 3);
        case 32: return softmax_of_runs<4>(x, count, 4);
        default: return softmax_of_runs<0>(x, count, stack.run_lanes / kLanes);
    }
}

constexpr int kPixels = 16;  // pixels whose marginals are in the works together, so that their latencies overlap

// The buffers of one mean field. `parts` private copies of the vertices are splatted into.
struct Field {
    Vertices spatial, bilateral;
    Buffer<float> spatial_next, bilateral_next;
    Buffer<float> scratch;  // [parts][kPixels][lanes]
    int parts = 1;
    std::int64_t lanes = 0;
};

// One part of one mean-field step: slice both messages, softmax, splat the new marginals, block by block. NV vectors of
// type F per pixel, or any number where NV is 0.
template <class F, int NV>
struct Pass {
    static constexpr int W = kWidth<F>;
    const Places<3> spatial;
    const Places<6> bilateral;
    const float *const spatial_now, *const bilateral_now;
    float *const spatial_next, *const bilateral_next;
    const float spatial_weight, bilateral_weight;
    const std::int64_t field_lanes;

    Pass(const MeanField& job, const Field& field, int part)
        : spatial(*job.spatial, job.spatial_weights), bilateral(*job.bilateral, job.bilateral_weights),
          spatial_now(field.spatial.now.data), bilateral_now(field.bilateral.now.data),
          spatial_next(field.spatial_next.data + part * (job.spatial->vertices + 1) * field.lanes),
          bilateral_next(field.bilateral_next.data + part * (job.bilateral->vertices + 1) * field.lanes),
          spatial_weight(job.spatial_compat * job.spatial->slice_scale()),
          bilateral_weight(job.bilateral_compat * job.bilateral->slice_scale()), field_lanes(field.lanes) {}

    T2M_INLINE std::int64_t lanes() const { return NV > 0 ? NV * W : field_lanes; }

    // x = log scores + messages, in the T vectors behind lane `v`.
    template <int T>
    T2M_INLINE void slice(const float* log_scores, std::int64_t p, int count, std::int64_t v, float* x) const {
        for (int i = 0; i < count; ++i) {
            F s[T], b[T];
            gather<F, T>(spatial, p + i, spatial_now + v, lanes(), s);
            gather<F, T>(bilateral, p + i, bilateral_now + v, lanes(), b);
            const float* const u = log_scores + (p + i) * lanes() + v;
            float* const y = x + i * lanes() + v;
            for (int k = 0; k < T; ++k) store(y + k * W, load<F>(u + k * W) + spatial_weight * s[k] + bilateral_weight * b[k]);
        }
    }
    template <int T>
    T2M_INLINE void splat(std::int64_t p, int count, std::int64_t v, const float* x) const {
        for (int i = 0; i < count; ++i) {
            F q[T];
            for (int k = 0; k < T; ++k) q[k] = load<F>(x + i * lanes() + v + k * W);
            scatter<F, T>(spatial, p + i, spatial_next + v, lanes(), q);
            scatter<F, T>(bilateral, p + i, bilateral_next + v, lanes(), q);
        }
    }
    void run(const Stack& stack, float* log_scores, float* x, Range range, bool first, bool last) const {
        constexpr int tile = NV > 0 ? NV : 4;
        for (std::int64_t p = range.begin; p < range.end; p += kPixels) {
            const int count = static_cast<int>(range.end - p < kPixels ? range.end - p : kPixels);
            const std::size_t bytes = static_cast<std::size_t>(count * lanes()) * sizeof(float);
            if (first) {
                std::memcpy(x, log_scores + p * lanes(), bytes);
            } else {
                std::int64_t v = 0;
                for (; v + tile * W <= lanes(); v += tile * W) slice<tile>(log_scores, p, count, v, x);
                for (; v < lanes(); v += W) slice<1>(log_scores, p, count, v, x);
            }
            softmax(x, kPixels, stack);  // of what lies behind the last pixel too
            if (last) {
                std::memcpy(log_scores + p * lanes(), x, bytes);
            } else {
                std::int64_t v = 0;
                for (; v + tile * W <= lanes(); v += tile * W) splat<tile>(p, count, v, x);
                for (; v < lanes(); v += W) splat<1>(p, count, v, x);
            }
        }
    }
};

template <class F, int NV>
Status mean_field_vectors(const MeanField& job, float* log_scores, const Crew& crew) {
    Field field;
    field.parts = splat_parts(job.spatial->pixels, crew);
    field.lanes = job.stack.lanes;
    if (!field.spatial.start(*job.spatial, field.lanes) || !field.bilateral.start(*job.bilateral, field.lanes)
        || !field.spatial_next.resize(static_cast<std::size_t>(field.parts * (job.spatial->vertices + 1) * field.lanes))
        || !field.bilateral_next.resize(static_cast<std::size_t>(field.parts * (job.bilateral->vertices + 1) * field.lanes))
        || !field.scratch.resize(static_cast<std::size_t>(field.parts * kPixels * field.lanes + 16))) return Status::out_of_memory;
    field.scratch.zero();
    field.spatial_next.zero();
    field.bilateral_next.zero();
    for (int i = 0; i <= job.iterations; ++i) {
        if (i > 0) {
            turn(*job.spatial, field.spatial, field.spatial_next, field.lanes, field.parts, false, crew);
            turn(*job.bilateral, field.bilateral, field.bilateral_next, field.lanes, field.parts, false, crew);
            field.spatial_next.zero();
            field.bilateral_next.zero();
        }
        parallel(crew, field.parts, [&, i](int part) {
            const Pass<F, NV> pass(job, field, part);
            pass.run(job.stack, log_scores, field.scratch.data + part * kPixels * field.lanes,
                     share(job.spatial->pixels, kPixels, part, field.parts), i == 0, i == job.iterations);
        });
    }
    return Status::ok;
}

Status mean_field(const MeanField& job, float* log_scores, const Crew& crew) {
    const int lanes = job.stack.lanes;
    if (kWidth<Wide> == 16 && lanes % 16 == 0) {
        switch (lanes / 16) {
            case 1: return mean_field_vectors<Wide, 1>(job, log_scores, crew);
            case 2: return mean_field_vectors<Wide, 2>(job, log_scores, crew);
            case 3: return mean_field_vectors<Wide, 3>(job, log_scores, crew);
            default: return mean_field_vectors<Wide, 0>(job, log_scores, crew);
        }
    }
    if (lanes == 4) return mean_field_vectors<F4, 1>(job, log_scores, crew);
    switch (lanes / kWidth<Plain>) {
        case 1: return mean_field_vectors<Plain, 1>(job, log_scores, crew);
        case 2: return mean_field_vectors<Plain, 2>(job, log_scores, crew);
        case 3: return mean_field_vectors<Plain, 3>(job, log_scores, crew);
        case 4: return mean_field_vectors<Plain, 4>(job, log_scores, crew);
        default: return mean_field_vectors<Plain, 0>(job, log_scores, crew);
    }
}

}  // namespace

const Kernels& T2M_JOIN(kernels_, T2M_ISA)() {
    static const Kernels table = {T2M_NAME(T2M_ISA), build, normalized_weights, filter, load_scores, mean_field};
    return table;
}

}  // namespace tag2mask
