// From features to a lattice. Part of kernels.inl.

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
        while (bits < 22 && (std::int64_t{1} << bits) < 2 * expected) ++bits;
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

// Bounds of one channel of a picture; false when a value is infinite or NaN.
template <class T>
bool bounds_of_channel(const T* plane, const Features& features, float& low, float& high) {
    low = high = 0.0f;
    if (features.pixels == 0) return true;
    std::int64_t at[kBlock];
    Walk(features.order, 0).next(1, at);
    auto least = +plane[at[0]], most = least;  // bytes are compared as integers
    int wrong = 0;
    Walk walk(features.order, 0);
    for (std::int64_t p = 0; p < features.pixels; p += kBlock) {
        const int count = static_cast<int>(features.pixels - p < kBlock ? features.pixels - p : kBlock);
        const bool row = walk.next(count, at);
        for (int k = 0; k < count; ++k) {
            const auto x = +plane[row ? at[0] + k : at[k]];
            least = x < least ? x : least;
            most = x > most ? x : most;
            wrong |= x - x != 0;
        }
    }
    low = static_cast<float>(least), high = static_cast<float>(most);
    return wrong == 0;
}

// Bounds of each feature of a picture; false when one is infinite or NaN.
bool bounds_of_picture(const Features& features, float* low, float* high) {
    const Colors& colors = features.colors;
    low[0] = low[1] = 0.0f;
    high[0] = static_cast<float>(features.order.width - 1) / features.sigma_xy;
    high[1] = static_cast<float>(features.order.height - 1) / features.sigma_xy;
    bool good = true;
    for (int i = 2; i < features.dims; ++i) {
        const std::int64_t begin = (i - 2) * colors.plane;
        good = (colors.bytes != nullptr ? bounds_of_channel(colors.bytes + begin, features, low[i], high[i])
                                        : bounds_of_channel(colors.floats + begin, features, low[i], high[i]))
               && good;
        low[i] /= features.sigma_rgb, high[i] /= features.sigma_rgb;
    }
    float wrong = 0.0f;
    for (int i = 0; i < features.dims; ++i) wrong += (high[i] - low[i]) * 0.0f;
    return good && wrong == 0.0f;
}

// Bounds of each feature; false when one is infinite or NaN.
bool bounds_of(const Features& features, float* low, float* high) {
    if (features.values == nullptr) return bounds_of_picture(features, low, high);
    for (int i = 0; i < features.dims; ++i) {
        const float* f = features.values + i * features.pixels;
        F8 low8 = splat<F8>(f[0]), high8 = low8, wrong8 = {};
        for (std::int64_t p = 0; p < features.pixels; p += kLanes) {
            F8 x = splat<F8>(f[0]);
            std::memcpy(&x, f + p, sizeof(float) * (features.pixels - p < kLanes ? features.pixels - p : kLanes));
            low8 = smaller(x, low8);
            high8 = larger(x, high8);
            wrong8 += x * 0.0f;  // NaN when a feature is infinite or NaN
        }
        low[i] = high[i] = f[0];
        float wrong = 0.0f;
        for (int p = 0; p < kLanes; ++p) {
            low[i] = low8[p] < low[i] ? low8[p] : low[i];
            high[i] = high8[p] > high[i] ? high8[p] : high[i];
            wrong += wrong8[p];
        }
        if (!(wrong == 0.0f)) return false;
    }
    return true;
}

template <int D>
Status pack_bounds(const Features& features, const float* scale, Packing& packing) {
    float least[kMaxDims], most[kMaxDims];
    if (!bounds_of(features, least, most)) return Status::not_finite;
    for (int i = 0; features.with_origin && i < D; ++i) {
        least[i] = least[i] < 0.0f ? least[i] : 0.0f;
        most[i] = most[i] > 0.0f ? most[i] : 0.0f;
    }
    double lo[D + 1] = {}, hi[D + 1] = {};  // interval of each elevated coordinate
    for (int i = 0; i < D; ++i) {
        const double low = static_cast<double>(least[i]) * scale[i], high = static_cast<double>(most[i]) * scale[i];
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

// One channel of up to eight pixels, side by side in a row or not.
template <class T>
T2M_INLINE void load_channel(const T* plane, bool row, int count, const std::int64_t* at, float* x) {
    if (row && count == kLanes) {
        for (int p = 0; p < kLanes; ++p) x[p] = static_cast<float>(plane[at[0] + p]);
    } else {
        for (int p = 0; p < count; ++p) x[p] = static_cast<float>(plane[row ? at[0] + p : at[p]]);
    }
}

// The features of pixels in order, up to eight at a time.
template <int D>
struct Reader {
    const Features& features;
    Walk walk;

    T2M_INLINE explicit Reader(const Features& f) : features(f), walk(f.order, 0) {}
    T2M_INLINE void next(std::int64_t start, int count, F8* f) {
        if (features.values != nullptr) {
            for (int i = 0; i < D; ++i) {
                f[i] = F8{};
                const float* const from = features.values + i * features.pixels + start;
                if (count == kLanes) f[i] = load<F8>(from);
                else std::memcpy(&f[i], from, sizeof(float) * static_cast<std::size_t>(count));
            }
            return;
        }
        const Order& order = features.order;
        std::int64_t at[kLanes];
        float x[D][kLanes] = {};
        const bool row = walk.next(count, at);
        if (row && count == kLanes) {
            const F8 steps = {0, 1, 2, 3, 4, 5, 6, 7};
            store(x[0], steps + static_cast<float>(at[0] % order.stride - order.left));
            if (D > 1) store(x[D > 1], splat<F8>(static_cast<float>(at[0] / order.stride - order.top)));
        } else {
            for (int p = 0; p < count; ++p) {
                const std::int64_t where = row ? at[0] + p : at[p];
                x[0][p] = static_cast<float>(where % order.stride - order.left);
                x[D > 1][p] = static_cast<float>(where / order.stride - order.top);
            }
        }
        const Colors& colors = features.colors;
        for (int i = 2; i < D; ++i) {
            const std::int64_t begin = (i - 2) * colors.plane;
            if (colors.bytes != nullptr) load_channel(colors.bytes + begin, row, count, at, x[i]);
            else load_channel(colors.floats + begin, row, count, at, x[i]);
        }
        for (int i = 0; i < D; ++i) f[i] = load<F8>(x[i]) / (i < 2 ? features.sigma_xy : features.sigma_rgb);
    }
};

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

constexpr std::int64_t kMaxVertices = (std::int64_t{1} << 29) - 2;  // what the 32 bits of a corner reach

template <int D>
struct Builder {
    Lattice& lattice;
    Packing packing;
    Table<CellSlot> cells;
    Table<VertexSlot> verts;
    Buffer<std::uint64_t> keys;  // of the vertices, by id

    // Corner r + 1 of a simplex lies one step below corner r along the coordinate of rank D - r.
    bool add_corners(std::uint64_t key, std::uint32_t ranks, std::int64_t cell) {
        constexpr int stride = corner_stride(D);
        if (lattice.corners.size < static_cast<std::size_t>((cell + 1) * stride)
            && !lattice.corners.resize(static_cast<std::size_t>(2 * (cell + 1) * stride))) return false;
        std::uint64_t unit_of_rank[16] = {};
        for (int i = 0; i < D; ++i) unit_of_rank[(ranks >> (4 * i)) & 15u] = std::uint64_t{1} << packing.shift[i];
        std::int32_t* corner = lattice.corners.data + cell * stride;
        for (int r = 0; r <= D; ++r) {
            bool fresh = false;
            const std::int64_t id = insert(verts, key, 0, fresh);
            if (id < 0 || id > kMaxVertices) return false;
            if (fresh) {
                if (keys.size <= static_cast<std::size_t>(id) && !keys.resize(static_cast<std::size_t>(2 * id + 64))) return false;
                keys[static_cast<std::size_t>(id)] = key;
            }
            corner[r] = (static_cast<std::int32_t>(id) + 1) * static_cast<std::int32_t>(sizeof(float));
            key += 1 - unit_of_rank[D - r];
        }
        return true;
    }

    bool add_links() {
        const std::int64_t count = verts.used;
        Buffer<std::int32_t> after(static_cast<std::size_t>(count));  // plus one, 0 for none
        Buffer<std::uint8_t> inside(static_cast<std::size_t>(count));  // not the first of a chain
        if (!after.ok() || !inside.ok()
            || !lattice.links.resize(static_cast<std::size_t>((D + 1) * (count + 1) + kLinksAhead))) return false;
        std::uint64_t all = 0;
        for (int i = 0; i < D; ++i) all += std::uint64_t{1} << packing.shift[i];
        std::int64_t at = 0;
        for (int j = 0; j <= D; ++j) {
            const std::uint64_t unit = j < D ? std::uint64_t{1} << packing.shift[j] : 0;
            after.zero();
            inside.zero();
            for (std::int64_t v = 0; v < count; ++v) {
                const std::uint64_t key = keys[static_cast<std::size_t>(v)];
                const std::uint64_t other = (key & 15u) != 0 ? key - 1 + unit : key + D - all + unit;
                const std::int64_t u = seek(verts.slots, verts.bits, other, 0).id;
                if (u < 0) continue;
                after[static_cast<std::size_t>(u)] = static_cast<std::int32_t>(v) + 1;
                inside[static_cast<std::size_t>(v)] = 1;
            }
            lattice.first_link[j] = at;
            for (std::int64_t v = 0; v < count; ++v) {
                std::int32_t next = after[static_cast<std::size_t>(v)];
                if (next == 0 || inside[static_cast<std::size_t>(v)] != 0) continue;
                lattice.links[static_cast<std::size_t>(at++)] = (static_cast<std::int32_t>(v) + 1) | kBegins;
                for (; next != 0; next = after[static_cast<std::size_t>(next - 1)]) {
                    lattice.links[static_cast<std::size_t>(at++)] = next;
                }
            }
            lattice.links[static_cast<std::size_t>(at++)] = kBegins;
        }
        lattice.first_link[D + 1] = at;
        for (int i = 0; i < kLinksAhead; ++i) lattice.links[static_cast<std::size_t>(at + i)] = kBegins;
        return true;
    }
};

template <int D>
Status build_dims(Lattice& out, const Features& features) {
    const std::int64_t pixels = features.pixels;
    out.dims = D;
    out.pixels = pixels;
    Builder<D> b{out, {}, {}, {}, {}};
    if (!out.cell.resize(pixels) || !out.weights.resize(pixels * (D + 1)) || !b.cells.start(pixels / 6)
        || !b.verts.start(pixels / 16) || !b.keys.resize(4096)
        || !out.corners.resize(pixels / 4 * corner_stride(D) + 1)) return Status::out_of_memory;
    float scale[D];
    // Rounded in two steps like the reference, or a pixel on the border of two cells would fall into the other one.
    const double spread = static_cast<float>((D + 1) * __builtin_sqrt(2.0 / 3.0));
    for (int i = 0; i < D; ++i) {
        scale[i] = static_cast<float>(spread / __builtin_sqrt((i + 1.0) * (i + 2.0)));
    }
    if (const Status status = pack_bounds<D>(features, scale, b.packing); status != Status::ok) return status;

    std::uint64_t last_key = 0;
    std::uint32_t last_ranks = ~0u;
    std::int64_t last_cell = -1;
    Reader<D> reader(features);
    Located<D> located[2];
    const auto lanes_at = [pixels](std::int64_t start) {
        return static_cast<int>(pixels - start < kLanes ? pixels - start : kLanes);
    };
    const auto find = [&](std::int64_t start, Located<D>& at) {
        F8 f[D];
        reader.next(start, lanes_at(start), f);
        locate<D>(f, scale, b.packing, at);
        for (int p = 0; p < lanes_at(start); ++p) b.cells.prefetch(at.key[p], at.ranks[p]);
    };
    find(0, located[0]);
    for (std::int64_t start = 0; start < pixels; start += kLanes) {
        const Located<D>& at = located[start / kLanes % 2];
        const std::int64_t after = start + kLanes;  // located early, so that its slots are on their way
        if (after < pixels) find(after, located[after / kLanes % 2]);
        for (int p = 0; p < lanes_at(start); ++p) {
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
    if (features.with_origin) {
        F8 origin[D] = {};
        Located<D> at;
        locate<D>(origin, scale, b.packing, at);
        bool fresh = false;
        const std::int64_t cell = insert(b.cells, at.key[0], at.ranks[0], fresh);
        if (cell < 0 || (fresh && !b.add_corners(at.key[0], at.ranks[0], cell))) return Status::out_of_memory;
    }
    out.vertices = static_cast<std::int32_t>(b.verts.used);
    return b.add_links() ? Status::ok : Status::out_of_memory;
}

Status build(Lattice& out, const Features& features) {
    switch (features.dims) {
        case 1: return build_dims<1>(out, features);
        case 2: return build_dims<2>(out, features);
        case 3: return build_dims<3>(out, features);
        case 4: return build_dims<4>(out, features);
        case 5: return build_dims<5>(out, features);
        case 6: return build_dims<6>(out, features);
        case 7: return build_dims<7>(out, features);
        default: return build_dims<8>(out, features);
    }
}
