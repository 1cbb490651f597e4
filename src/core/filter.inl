// Splat, blur, slice; the filter of planes. Part of kernels.inl.

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

    T2M_INLINE explicit Places(const Lattice& lattice)
        : cell(lattice.cell.data), corner(lattice.corners.data), weight(lattice.weights.data), dims(lattice.dims) {}
    T2M_INLINE int count() const { return C > 0 ? C : dims + 1; }
    T2M_INLINE const std::int32_t* corners(std::int64_t p) const {
        return corner + static_cast<std::int64_t>(cell[p]) * corner_stride(count() - 1);
    }
    T2M_INLINE const float* weights(std::int64_t p) const { return weight + p * count(); }
};

// Values of a corner, out of `lanes` floats per vertex.
T2M_INLINE const float* behind(const float* values, std::int32_t corner, std::int64_t lanes) {
    return reinterpret_cast<const float*>(reinterpret_cast<const char*>(values) + corner * lanes);
}
T2M_INLINE float* behind(float* values, std::int32_t corner, std::int64_t lanes) {
    return reinterpret_cast<float*>(reinterpret_cast<char*>(values) + corner * lanes);
}

// NV vectors of the values of one pixel.
template <class F, int NV, int C>
T2M_INLINE void gather(const Places<C>& places, std::int64_t p, const float* values, std::int64_t lanes, F* out) {
    const std::int32_t* corner = places.corners(p);
    const float* w = places.weights(p);
    for (int v = 0; v < NV; ++v) out[v] = F{};
    for (int k = 0; k < places.count(); ++k) {
        const float* x = behind(values, corner[k], lanes);
        for (int v = 0; v < NV; ++v) out[v] += w[k] * load<F>(x + v * kWidth<F>);
    }
}

template <class F, int NV, int C>
T2M_INLINE void scatter(const Places<C>& places, std::int64_t p, float* values, std::int64_t lanes, const F* in) {
    const std::int32_t* corner = places.corners(p);
    const float* w = places.weights(p);
    for (int k = 0; k < places.count(); ++k) {
        float* x = behind(values, corner[k], lanes);
        for (int v = 0; v < NV; ++v) store(x + v * kWidth<F>, load<F>(x + v * kWidth<F>) + w[k] * in[v]);
    }
}

// values += (those of both neighbours) / 2 along one axis, in place: NV vectors of every vertex of some chains, which are
// all of its lanes where `Whole`. A chain is gone through once, so that each value is read and written once, in
// whatever cache it lies.
template <class F, int NV, bool Whole>
void blur_chains(const std::int32_t* link, Range range, float* values, std::int64_t any_lanes) {
    typedef typename Integers<F>::Type I;
    constexpr int W = kWidth<F>;
    const std::int64_t lanes = Whole ? NV * W : any_lanes;
    if (range.begin == range.end) return;
    float* at = values + (link[range.begin] & ~kBegins) * lanes;
    F before[NV], here[NV];
    for (int v = 0; v < NV; ++v) before[v] = F{}, here[v] = load<F>(at + v * W);
    for (std::int64_t i = range.begin; i < range.end; ++i) {
        if (NV > 1) {  // smaller ones are near anyway
            const float* const later = values + (link[i + kLinksAhead] & ~kBegins) * lanes;
            for (int v = 0; v < NV * W; v += 16) __builtin_prefetch(later + v, 1);
        }
        // of the chains of another thread not even a value that is dropped
        const std::int32_t next = i + 1 < range.end ? link[i + 1] : kBegins;
        float* const to = values + (next & ~kBegins) * lanes;
        const I same = I{} + ~(next >> 31);  // all bits where the chain goes on, none where another one begins
        for (int v = 0; v < NV; ++v) {
            const F after = load<F>(to + v * W);
            store(at + v * W, here[v] + 0.5f * (before[v] + (F)((I)after & same)));
            before[v] = (F)((I)here[v] & same);
            here[v] = after;
        }
        at = to;
    }
}

// The same for any number of vectors.
template <class F>
void blur_all(const std::int32_t* link, Range range, float* values, std::int64_t lanes) {
    constexpr int W = kWidth<F>;
    for (std::int64_t v = 0; v < lanes; v += 4 * W) {
        switch ((lanes - v) / W) {
            case 1: return blur_chains<F, 1, false>(link, range, values + v, lanes);
            case 2: return blur_chains<F, 2, false>(link, range, values + v, lanes);
            case 3: return blur_chains<F, 3, false>(link, range, values + v, lanes);
            default: blur_chains<F, 4, false>(link, range, values + v, lanes);
        }
    }
}

void blur_chains_of_one(const std::int32_t* link, Range range, float* values) {
    float before = 0.0f;
    for (std::int64_t i = range.begin; i < range.end; ++i) {
        float& here = values[link[i] & ~kBegins];
        const float old = here;
        const bool ends = link[i + 1] < 0;
        here += 0.5f * (before + (ends ? 0.0f : values[link[i + 1]]));
        before = ends ? 0.0f : old;
    }
}

// The same for any number of lanes: 1, 4 or a multiple of 8.
void blur_any(const std::int32_t* link, Range range, float* values, std::int64_t lanes) {
    switch (lanes) {
        case 1: return blur_chains_of_one(link, range, values);
        case 4: return blur_chains<F4, 1, true>(link, range, values, lanes);
        case 8: return blur_chains<F8, 1, true>(link, range, values, lanes);
        case 16: return blur_chains<F8, 2, true>(link, range, values, lanes);
        case 24: return blur_chains<F8, 3, true>(link, range, values, lanes);
        default:
            if (lanes % kWidth<Wide> == 0) return blur_all<Wide>(link, range, values, lanes);
            blur_all<F8>(link, range, values, lanes);
    }
}

// Several threads splat a large picture in parts, each into vertices of its own, which are then added. So the last bits
// of a large picture depend on whether several threads share it; for one number of threads they are always the same.
T2M_INLINE int splat_parts(std::int64_t pixels, const Crew& crew) {
    return crew.size == 1 || pixels < kSharedPixels ? 1 : pixels < (1 << 18) && crew.size < 4 ? 2 : 4;
}

// Values of the vertices: `now` is sliced, `next` [parts][vertices + 1][lanes] is splatted into.
struct Vertices {
    Buffer<float> now, next;
    std::int64_t lanes = 0, count = 0;  // count: floats of one part
    int parts = 1;

    bool start(const Lattice& lattice, std::int64_t lanes_, int parts_) {
        lanes = lanes_, parts = parts_;
        count = (lattice.vertices + 1) * lanes;
        if (!now.resize(static_cast<std::size_t>(count))) return false;
        if (!next.resize(static_cast<std::size_t>(parts * count))) return false;
        next.zero();
        return true;
    }
    float* part(int i) const { return next.data + i * count; }

    // What was splatted becomes what is sliced: the parts added up in `now` and blurred there along every axis. Leaves
    // any values in `next`.
    void turn(const Lattice& lattice, bool reverse, const Crew& crew) {
        if (parts > 1) add_parts(now.data, crew);
        else now = static_cast<Buffer<float>&&>(next);  // exchanges the two
        for (int step = 0; step <= lattice.dims; ++step) blur(lattice, reverse ? lattice.dims - step : step, crew);
    }

private:
    // Parts do not change what is computed here, so they follow the threads.
    int shares_of(const Crew& crew) const { return count < 65536 ? 1 : crew.size; }
    void blur(const Lattice& lattice, int axis, const Crew& crew) const {
        const std::int32_t* const link = lattice.links.data + lattice.first_link[axis];
        const std::int64_t links = lattice.first_link[axis + 1] - lattice.first_link[axis] - 1;
        float* const values = now.data;
        const std::int64_t width = lanes;
        const int shares = shares_of(crew);
        parallel(crew, shares, [=](int i) {
            Range range = share(links, 1, i, shares);
            while (range.begin < links && link[range.begin] >= 0) ++range.begin;
            while (range.end < links && link[range.end] >= 0) ++range.end;
            blur_any(link, range, values, width);
        });
    }
    void add_parts(float* sums, const Crew& crew) const {
        const int shares = shares_of(crew);
        const float *first = part(0), *second = part(1), *third = part(2), *fourth = part(3);
        const bool two = parts == 2;
        const std::int64_t floats = count;
        parallel(crew, shares, [=](int i) {
            const Range range = share(floats, kLanes, i, shares);
            if (two) {
                for (std::int64_t k = range.begin; k < range.end; ++k) sums[k] = first[k] + second[k];
            } else {
                for (std::int64_t k = range.begin; k < range.end; ++k) {
                    sums[k] = first[k] + second[k] + third[k] + fourth[k];
                }
            }
        });
    }
};

template <int C>
Status normalize_corners(Lattice& lattice) {
    const Places<C> places(lattice);
    const int corners = places.count();
    Vertices sums;
    if (!sums.start(lattice, 1, 1)) return Status::out_of_memory;
    float* const a = sums.next.data;
    for (std::int64_t p = 0; p < lattice.pixels; ++p) {
        const std::int32_t* corner = places.corners(p);
        const float* w = places.weights(p);
        for (int k = 0; k < corners; ++k) *behind(a, corner[k], 1) += w[k];
    }
    sums.turn(lattice, false, Crew{});
    const float* const b = sums.now.data;
    float* const weights = lattice.weights.data;
    const float scale = lattice.slice_scale();
    for (std::int64_t p = 0; p < lattice.pixels; ++p) {
        const std::int32_t* corner = places.corners(p);
        float* w = weights + p * corners;
        float sum = 0.0f;
        for (int k = 0; k < corners; ++k) sum += w[k] * *behind(b, corner[k], 1);
        const float n = 1.0f / __builtin_sqrtf(sum * scale + 1e-20f);
        for (int k = 0; k < corners; ++k) w[k] *= n;
    }
    return Status::ok;
}

Status normalize(Lattice& lattice) {
    switch (lattice.dims) {
        case 2: return normalize_corners<3>(lattice);
        case 5: return normalize_corners<6>(lattice);
        default: return normalize_corners<0>(lattice);
    }
}

constexpr int kTurned = 64;  // pixels that are turned from planes to pixel-major at a time

template <class F, int NV, int C>
void splat_planes(const Lattice& lattice, const float* in, int channels, float* values, float* block, Range range) {
    constexpr int W = kWidth<F>, lanes = NV * W;
    const Places<C> places(lattice);
    for (std::int64_t start = range.begin; start < range.end; start += kTurned) {
        const int count = static_cast<int>(range.end - start < kTurned ? range.end - start : kTurned);
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
    const Places<C> places(lattice);
    const float scale = lattice.slice_scale();
    for (std::int64_t start = range.begin; start < range.end; start += kTurned) {
        const int count = static_cast<int>(range.end - start < kTurned ? range.end - start : kTurned);
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

template <class F, int NV, int C>
Status filter_vectors(const Lattice& lattice, const float* in, float* out, int channels, bool transpose, const Crew& crew) {
    constexpr std::int64_t lanes = NV * kWidth<F>;
    const int parts = splat_parts(lattice.pixels, crew);
    Vertices values;
    Buffer<float> blocks(static_cast<std::size_t>(parts * kTurned * lanes));
    if (!values.start(lattice, lanes, parts) || !blocks.ok()) return Status::out_of_memory;
    blocks.zero();
    float* const block = blocks.data;
    parallel(crew, parts, [&, block](int part) {
        splat_planes<F, NV, C>(lattice, in, channels, values.part(part), block + part * kTurned * lanes,
                               share(lattice.pixels, kTurned, part, parts));
    });
    values.turn(lattice, transpose, crew);
    parallel(crew, parts, [&, block](int part) {
        slice_planes<F, NV, C>(lattice, out, channels, values.now.data, block + part * kTurned * lanes,
                               share(lattice.pixels, kTurned, part, parts));
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

