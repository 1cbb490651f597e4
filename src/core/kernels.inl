// The hot loops, included once per instruction set with T2M_ISA set.
//
// Semantics: Adams, Baek & Davis 2010 with the conventions of Krähenbühl & Koltun 2011: features elevated with
// sqrt(2/3) (d + 1), blur v + (n1 + n2) / 2 along each of the d + 1 axes in order, slice scale 1 / (1 + 2^-d).
//
// Speed: a vertex is (remainder k, cell q) with coordinates k + (d + 1) q_i. Packed into 64 bits, every corner of
// a simplex and every neighbour along an axis is one addition away. Simplices are hashed before vertices, since
// neighbouring pixels mostly share theirs. Vectors run over pixels in the build and over channels in the filters.
#include "lattice.hpp"

#define T2M_JOIN_(a, b) a##b
#define T2M_JOIN(a, b) T2M_JOIN_(a, b)
#define T2M_NAME_(a) #a
#define T2M_NAME(a) T2M_NAME_(a)

namespace tag2mask {
namespace {

typedef float V __attribute__((vector_size(32)));
typedef std::int32_t I __attribute__((vector_size(32)));

#if defined(__clang__)
#define T2M_SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define T2M_SHUFFLE(v, ...) __builtin_shuffle(v, I{__VA_ARGS__})
#endif

T2M_INLINE V splat(float x) { return V{x, x, x, x, x, x, x, x}; }
T2M_INLINE V larger(V a, V b) { return a > b ? a : b; }
T2M_INLINE V smaller(V a, V b) { return a < b ? a : b; }
T2M_INLINE V load(const float* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// Nearest integer for |x| < 2^22, without an instruction that baseline CPUs lack.
T2M_INLINE V nearest(V x) {
    const V magic = splat(12582912.0f);
    return (x + magic) - magic;
}

// e^x for x <= 0 within 2 ulp, 0 below -60 (keeps denormal numbers out of the lattice).
T2M_INLINE V exponential(V x) {
    const V y = larger(x, splat(-60.0f)) * splat(1.44269504f);
    const V n = nearest(y);
    const V f = (y - n) * splat(0.693147181f);
    V p = splat(1.0f / 720.0f);
    p = p * f + splat(1.0f / 120.0f);
    p = p * f + splat(1.0f / 24.0f);
    p = p * f + splat(1.0f / 6.0f);
    p = p * f + splat(0.5f);
    p = p * f + splat(1.0f);
    p = p * f + splat(1.0f);
    const I bits = __builtin_convertvector(n, I) << 23;
    const V r = (V)((I)p + bits);
    return x < splat(-60.0f) ? splat(0.0f) : r;
}

// log(x) for normal x > 0: 2 atanh((m - 1) / (m + 1)) of the mantissa m in [sqrt(1/2), sqrt(2)].
T2M_INLINE V logarithm(V x) {
    const I bits = (I)x;
    I e = (bits >> 23) - 127;
    V m = (V)((bits & 0x007fffff) | 0x3f800000);
    const I big = m > splat(1.41421356f);
    e -= big;
    m = big ? m * splat(0.5f) : m;
    const V s = (m - splat(1.0f)) / (m + splat(1.0f));
    const V t = s * s;
    V p = splat(1.0f / 9.0f);
    p = p * t + splat(1.0f / 7.0f);
    p = p * t + splat(1.0f / 5.0f);
    p = p * t + splat(1.0f / 3.0f);
    p = p * t + splat(1.0f);
    return __builtin_convertvector(e, V) * splat(0.693147181f) + splat(2.0f) * s * p;
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
    bool start() { return clear(slots, bits); }
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
        V low8 = splat(f[0]), high8 = low8, wrong8 = splat(0.0f);
        for (std::int64_t p = 0; p < pixels; p += kLanes) {
            V x = splat(f[0]);
            std::memcpy(&x, f + p, sizeof(float) * (pixels - p < kLanes ? pixels - p : kLanes));
            low8 = smaller(x, low8);
            high8 = larger(x, high8);
            wrong8 += x * splat(0.0f);  // NaN when a feature is infinite or NaN
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

// Eight pixels in the lattice: cell q, rank and fractional part of each coordinate.
template <int D>
struct Located {
    std::int32_t q[D + 1][kLanes];
    std::int32_t rank[D + 1][kLanes];
    float part[D + 1][kLanes];
};

template <int D>
T2M_INLINE void locate(const V* f, const float* scale, Located<D>& out) {
    const float down = 1.0f / (D + 1);
    V e[D + 1], r[D + 1];
    V sum = splat(0.0f);
    for (int j = D; j > 0; --j) {
        const V c = f[j - 1] * splat(scale[j - 1]);
        e[j] = sum - splat(static_cast<float>(j)) * c;
        sum += c;
    }
    e[0] = sum;
    sum = splat(0.0f);
    for (int i = 0; i <= D; ++i) {
        r[i] = nearest(e[i] * splat(down));
        sum += r[i];
        e[i] -= r[i] * splat(static_cast<float>(D + 1));
    }
    I rank[D + 1] = {};
    for (int i = 0; i < D; ++i) {
        for (int j = i + 1; j <= D; ++j) {
            const I less = e[i] < e[j];
            rank[i] -= less;
            rank[j] += less + 1;
        }
    }
    // The rounded point may lie beside the plane of coordinates with sum 0: walk back along the ranks.
    const I beside = __builtin_convertvector(sum, I);
    for (int i = 0; i <= D; ++i) {
        I k = rank[i] + beside;
        const I step = (k > D) - (k < 0);  // -1 where k is too large, 1 where it is negative
        k += step * (D + 1);
        const V move = __builtin_convertvector(step, V);
        const I q = __builtin_convertvector(r[i] + move, I);
        const V part = e[i] * splat(down) - move;
        std::memcpy(out.q[i], &q, sizeof q);
        std::memcpy(out.rank[i], &k, sizeof k);
        std::memcpy(out.part[i], &part, sizeof part);
    }
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
    if (!out.cell.resize(pixels) || !out.weights.resize(pixels * (D + 1)) || !b.cells.start() || !b.verts.start()
        || !b.keys.resize(4096)) return Status::out_of_memory;
    float scale[D];
    for (int i = 0; i < D; ++i) {
        scale[i] = static_cast<float>((D + 1) * __builtin_sqrt(2.0 / 3.0) / __builtin_sqrt((i + 1.0) * (i + 2.0)));
    }
    if (const Status status = pack_bounds<D>(features, pixels, scale, b.packing); status != Status::ok) return status;

    std::uint64_t last_key = 0;
    std::uint32_t last_ranks = ~0u;
    std::int64_t last_cell = -1;
    Located<D> at;
    for (std::int64_t start = 0; start < pixels; start += kLanes) {
        const int lanes = static_cast<int>(pixels - start < kLanes ? pixels - start : kLanes);
        V f[D];
        for (int i = 0; i < D; ++i) {
            f[i] = splat(0.0f);
            std::memcpy(&f[i], features + i * pixels + start, sizeof(float) * lanes);
        }
        locate<D>(f, scale, at);
        for (int p = 0; p < lanes; ++p) {
            std::uint64_t key = 0;
            std::uint32_t ranks = 0;
            float part[D + 1];
            for (int i = 0; i < D; ++i) {
                key += static_cast<std::uint64_t>(at.q[i][p] - b.packing.low[i]) << b.packing.shift[i];
                ranks |= static_cast<std::uint32_t>(at.rank[i][p]) << (4 * i);
            }
            for (int i = 0; i <= D; ++i) part[at.rank[i][p]] = at.part[i][p];
            float* w = out.weights.data + (start + p) * (D + 1);
            w[0] = 1.0f + part[D] - part[0];
            for (int k = 1; k <= D; ++k) w[k] = part[D - k] - part[D + 1 - k];
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

// One value per vertex: T is float (one channel) or V with `vectors` per vertex. The result ends in `a`.
template <class T, int NV>
void blur(const Lattice& lattice, Buffer<T>& a, Buffer<T>& b, int vectors, bool reverse) {
    const int nv = NV > 0 ? NV : vectors;
    const std::int64_t count = lattice.vertices;
    for (int step = 0; step <= lattice.dims; ++step) {
        const int axis = reverse ? lattice.dims - step : step;
        const std::int32_t* n = lattice.neighbours.data + axis * (count + 1) * 2;
        for (int v = 0; v < nv; ++v) b.data[v] = T{};
        for (std::int64_t i = 1; i <= count; ++i) {
            const T* x = a.data + i * nv;
            const T* n1 = a.data + static_cast<std::int64_t>(n[2 * i]) * nv;
            const T* n2 = a.data + static_cast<std::int64_t>(n[2 * i + 1]) * nv;
            T* y = b.data + i * nv;
            for (int v = 0; v < nv; ++v) y[v] = x[v] + 0.5f * (n1[v] + n2[v]);
        }
        Buffer<T> t = static_cast<Buffer<T>&&>(a);
        a = static_cast<Buffer<T>&&>(b);
        b = static_cast<Buffer<T>&&>(t);
    }
}

Status normalized_weights(const Lattice& lattice, float* out) {
    const int corners = lattice.dims + 1;
    Buffer<float> a(lattice.vertices + 1), b(lattice.vertices + 1);
    if (!a.ok() || !b.ok()) return Status::out_of_memory;
    a.zero();
    for (std::int64_t p = 0; p < lattice.pixels; ++p) {
        const std::int32_t* corner = lattice.corners.data + static_cast<std::int64_t>(lattice.cell[p]) * lattice.corner_stride;
        const float* w = lattice.weights.data + p * corners;
        for (int k = 0; k < corners; ++k) a[corner[k]] += w[k];
    }
    blur<float, 1>(lattice, a, b, 1, false);
    const float scale = lattice.slice_scale();
    for (std::int64_t p = 0; p < lattice.pixels; ++p) {
        const std::int32_t* corner = lattice.corners.data + static_cast<std::int64_t>(lattice.cell[p]) * lattice.corner_stride;
        const float* w = lattice.weights.data + p * corners;
        float sum = 0.0f;
        for (int k = 0; k < corners; ++k) sum += w[k] * a[corner[k]];
        const float n = 1.0f / __builtin_sqrtf(sum * scale + 1e-20f);
        for (int k = 0; k < corners; ++k) out[p * corners + k] = w[k] * n;
    }
    return Status::ok;
}

template <int NV>
T2M_INLINE void gather(const Lattice& lattice, std::int64_t p, const float* weights, const V* values, int nv, V* out) {
    const int corners = lattice.dims + 1;
    const std::int32_t* corner = lattice.corners.data + static_cast<std::int64_t>(lattice.cell.data[p]) * lattice.corner_stride;
    const float* w = weights + p * corners;
    for (int v = 0; v < nv; ++v) out[v] = splat(0.0f);
    for (int k = 0; k < corners; ++k) {
        const V* x = values + static_cast<std::int64_t>(corner[k]) * nv;
        for (int v = 0; v < nv; ++v) out[v] += splat(w[k]) * x[v];
    }
}

template <int NV>
T2M_INLINE void scatter(const Lattice& lattice, std::int64_t p, const float* weights, V* values, int nv, const V* in) {
    const int corners = lattice.dims + 1;
    const std::int32_t* corner = lattice.corners.data + static_cast<std::int64_t>(lattice.cell.data[p]) * lattice.corner_stride;
    const float* w = weights + p * corners;
    for (int k = 0; k < corners; ++k) {
        V* x = values + static_cast<std::int64_t>(corner[k]) * nv;
        for (int v = 0; v < nv; ++v) x[v] += splat(w[k]) * in[v];
    }
}

constexpr int kBlock = 64;  // pixels that are turned from planes to pixel-major at a time

template <int NV>
Status filter_vectors(const Lattice& lattice, const float* in, float* out, int channels, bool transpose) {
    Buffer<V> a((lattice.vertices + 1) * NV), b((lattice.vertices + 1) * NV);
    if (!a.ok() || !b.ok()) return Status::out_of_memory;
    a.zero();
    V block[kBlock][NV] = {};
    float* const flat = reinterpret_cast<float*>(block);
    for (std::int64_t start = 0; start < lattice.pixels; start += kBlock) {
        const std::int64_t count = lattice.pixels - start < kBlock ? lattice.pixels - start : kBlock;
        for (int c = 0; c < channels; ++c) {
            for (std::int64_t p = 0; p < count; ++p) flat[p * NV * kLanes + c] = in[c * lattice.pixels + start + p];
        }
        for (std::int64_t p = 0; p < count; ++p) scatter<NV>(lattice, start + p, lattice.weights.data, a.data, NV, block[p]);
    }
    blur<V, NV>(lattice, a, b, NV, transpose);
    const V scale = splat(lattice.slice_scale());
    for (std::int64_t start = 0; start < lattice.pixels; start += kBlock) {
        const std::int64_t count = lattice.pixels - start < kBlock ? lattice.pixels - start : kBlock;
        for (std::int64_t p = 0; p < count; ++p) {
            gather<NV>(lattice, start + p, lattice.weights.data, a.data, NV, block[p]);
            for (int v = 0; v < NV; ++v) block[p][v] *= scale;
        }
        for (int c = 0; c < channels; ++c) {
            for (std::int64_t p = 0; p < count; ++p) out[c * lattice.pixels + start + p] = flat[p * NV * kLanes + c];
        }
    }
    return Status::ok;
}

Status filter(const Lattice& lattice, const float* in, float* out, int channels, bool transpose) {
    for (int c = 0; c < channels; c += 4 * kLanes) {
        const int count = channels - c < 4 * kLanes ? channels - c : 4 * kLanes;
        const float* x = in + c * lattice.pixels;
        float* y = out + c * lattice.pixels;
        Status status = Status::ok;
        switch ((count + kLanes - 1) / kLanes) {
            case 1: status = filter_vectors<1>(lattice, x, y, count, transpose); break;
            case 2: status = filter_vectors<2>(lattice, x, y, count, transpose); break;
            case 3: status = filter_vectors<3>(lattice, x, y, count, transpose); break;
            default: status = filter_vectors<4>(lattice, x, y, count, transpose);
        }
        if (status != Status::ok) return status;
    }
    return Status::ok;
}

// ----------------------------------------------------------------------------------------- mean field

// Larger than any exponent that matters is from 0; keeps the padding lanes of a run at probability 0.
constexpr float kNever = -1e30f;

bool load_scores(const float* const* planes, const std::int64_t* index, std::int64_t pixels, const Stack& stack, float* out) {
    const int lanes = stack.vectors * kLanes;
    I wrong = {};
    for (std::int64_t i = 0; i < pixels * lanes; ++i) out[i] = kNever;
    for (std::int64_t start = 0; start < pixels; start += kLanes) {
        const int count = static_cast<int>(pixels - start < kLanes ? pixels - start : kLanes);
        for (int r = 0; r < stack.runs; ++r) {
            for (int l = 0; l < stack.labels; ++l) {
                const float* plane = planes[r * stack.labels + l];
                float score[kLanes] = {1, 1, 1, 1, 1, 1, 1, 1};
                for (int p = 0; p < count; ++p) score[p] = plane[index != nullptr ? index[start + p] : start + p];
                const V raw = load(score);
                wrong |= raw != raw;
                const V v = logarithm(smaller(larger(raw, splat(1e-5f)), splat(1.0f)));
                std::memcpy(score, &v, sizeof score);
                float* to = out + start * lanes + r * stack.run_lanes + l;
                for (int p = 0; p < count; ++p) to[p * lanes] = score[p];
            }
        }
    }
    int any = 0;
    for (int p = 0; p < kLanes; ++p) any |= wrong[p];
    return any == 0;
}

T2M_INLINE V max_of_four(V x) {
    x = larger(x, T2M_SHUFFLE(x, 2, 3, 0, 1, 6, 7, 4, 5));
    return larger(x, T2M_SHUFFLE(x, 1, 0, 3, 2, 5, 4, 7, 6));
}
T2M_INLINE V sum_of_four(V x) {
    x += T2M_SHUFFLE(x, 2, 3, 0, 1, 6, 7, 4, 5);
    return x + T2M_SHUFFLE(x, 1, 0, 3, 2, 5, 4, 7, 6);
}
T2M_INLINE V swap_halves(V x) { return T2M_SHUFFLE(x, 4, 5, 6, 7, 0, 1, 2, 3); }

// Softmax within each run. FOURS: two runs share a vector; else a run has `run_vectors` vectors of its own.
template <bool FOURS>
T2M_INLINE void softmax(V* x, int nv, int run_vectors) {
    if (FOURS) {
        for (int v = 0; v < nv; ++v) {
            const V e = exponential(x[v] - max_of_four(x[v]));
            x[v] = e / sum_of_four(e);
        }
        return;
    }
    for (int first = 0; first < nv; first += run_vectors) {
        V top = x[first];
        for (int v = first + 1; v < first + run_vectors; ++v) top = larger(top, x[v]);
        top = max_of_four(top);
        top = larger(top, swap_halves(top));
        V sum = splat(0.0f);
        for (int v = first; v < first + run_vectors; ++v) {
            x[v] = exponential(x[v] - top);
            sum += x[v];
        }
        sum = sum_of_four(sum);
        sum += swap_halves(sum);
        const V scale = splat(1.0f) / sum;
        for (int v = first; v < first + run_vectors; ++v) x[v] *= scale;
    }
}

struct Values {
    Buffer<V> now, next, spare;  // filtered marginals, the marginals being splatted, room for the blur
};

// One mean-field step in one pass over the pixels: slice both messages, softmax, splat the new marginals.
template <int NV, bool FOURS, bool FIRST, bool LAST>
void pass(const MeanField& job, float* log_scores, Values& spatial, Values& bilateral, V* scratch) {
    const int nv = NV > 0 ? NV : job.stack.vectors;
    const int run_vectors = FOURS ? 1 : job.stack.run_lanes / kLanes;
    const V ws = splat(job.spatial_compat * job.spatial->slice_scale());
    const V wb = splat(job.bilateral_compat * job.bilateral->slice_scale());
    V local[3][NV > 0 ? NV : 1];
    V* const x = NV > 0 ? local[0] : scratch;
    V* const s = NV > 0 ? local[1] : scratch + nv;
    V* const b = NV > 0 ? local[2] : scratch + 2 * nv;
    for (std::int64_t p = 0; p < job.spatial->pixels; ++p) {
        V* const u = reinterpret_cast<V*>(log_scores) + p * nv;
        for (int v = 0; v < nv; ++v) x[v] = u[v];
        if (!FIRST) {
            gather<NV>(*job.spatial, p, job.spatial_weights, spatial.now.data, nv, s);
            gather<NV>(*job.bilateral, p, job.bilateral_weights, bilateral.now.data, nv, b);
            for (int v = 0; v < nv; ++v) x[v] += ws * s[v] + wb * b[v];
        }
        softmax<FOURS>(x, nv, run_vectors);
        if (LAST) {
            for (int v = 0; v < nv; ++v) u[v] = x[v];
        } else {
            scatter<NV>(*job.spatial, p, job.spatial_weights, spatial.next.data, nv, x);
            scatter<NV>(*job.bilateral, p, job.bilateral_weights, bilateral.next.data, nv, x);
        }
    }
}

template <int NV>
void step(const Lattice& lattice, Values& values, int nv) {
    Buffer<V> t = static_cast<Buffer<V>&&>(values.now);
    values.now = static_cast<Buffer<V>&&>(values.next);
    values.next = static_cast<Buffer<V>&&>(t);
    blur<V, NV>(lattice, values.now, values.spare, nv, false);
    values.next.zero();
}

template <int NV, bool FOURS>
Status mean_field_vectors(const MeanField& job, float* log_scores) {
    const int nv = job.stack.vectors;
    Values spatial, bilateral;
    Buffer<V> scratch(3 * nv);
    bool ok = scratch.ok();
    Values* const both[] = {&spatial, &bilateral};
    for (Values* values : both) {
        const std::size_t count = static_cast<std::size_t>((values == &spatial ? job.spatial : job.bilateral)->vertices + 1) * nv;
        ok = ok && values->now.resize(count) && values->next.resize(count) && values->spare.resize(count);
    }
    if (!ok) return Status::out_of_memory;
    if (job.iterations == 0) {
        pass<NV, FOURS, true, true>(job, log_scores, spatial, bilateral, scratch.data);
        return Status::ok;
    }
    spatial.next.zero();
    bilateral.next.zero();
    pass<NV, FOURS, true, false>(job, log_scores, spatial, bilateral, scratch.data);
    for (int i = 1; i <= job.iterations; ++i) {
        step<NV>(*job.spatial, spatial, nv);
        step<NV>(*job.bilateral, bilateral, nv);
        if (i < job.iterations) pass<NV, FOURS, false, false>(job, log_scores, spatial, bilateral, scratch.data);
        else pass<NV, FOURS, false, true>(job, log_scores, spatial, bilateral, scratch.data);
    }
    return Status::ok;
}

Status mean_field(const MeanField& job, float* log_scores) {
    const int nv = job.stack.vectors;
    if (job.stack.run_lanes == 4) {
        switch (nv) {
            case 1: return mean_field_vectors<1, true>(job, log_scores);
            case 2: return mean_field_vectors<2, true>(job, log_scores);
            default: return mean_field_vectors<0, true>(job, log_scores);
        }
    }
    switch (nv) {
        case 1: return mean_field_vectors<1, false>(job, log_scores);
        case 2: return mean_field_vectors<2, false>(job, log_scores);
        case 3: return mean_field_vectors<3, false>(job, log_scores);
        case 4: return mean_field_vectors<4, false>(job, log_scores);
        case 6: return mean_field_vectors<6, false>(job, log_scores);
        default: return mean_field_vectors<0, false>(job, log_scores);
    }
}

}  // namespace

const Kernels& T2M_JOIN(kernels_, T2M_ISA)() {
    static const Kernels table = {T2M_NAME(T2M_ISA), build, normalized_weights, filter, load_scores, mean_field};
    return table;
}

}  // namespace tag2mask
