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

// The same where a vertex has too many vectors to spell them out.
template <class F>
void blur_rows(const std::int32_t* neighbours, const float* from, float* to, Range range, std::int64_t lanes) {
    for (std::int64_t i = range.begin; i < range.end; ++i) {
        const float* n1 = from + neighbours[2 * i] * lanes;
        const float* n2 = from + neighbours[2 * i + 1] * lanes;
        const std::int64_t at = i * lanes;
        for (std::int64_t v = 0; v < lanes; v += kWidth<F>) {
            store(to + at + v, load<F>(from + at + v) + 0.5f * (load<F>(n1 + v) + load<F>(n2 + v)));
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
        case 40: return blur_range<F8, 5>(neighbours, from, to, range, lanes);
        default:
            if (lanes % kWidth<Wide> == 0) return blur_rows<Wide>(neighbours, from, to, range, lanes);
            blur_rows<F8>(neighbours, from, to, range, lanes);
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

    // What was splatted becomes what is sliced: the parts added up and blurred along every axis, to and fro between the
    // two buffers so that it ends in `now`. Leaves any values in `next`.
    void turn(const Lattice& lattice, bool reverse, const Crew& crew) {
        const int steps = lattice.dims + 1;
        float *from = steps % 2 != 0 ? next.data : now.data, *to = steps % 2 != 0 ? now.data : next.data;
        if (parts > 1) {
            add_parts(from, crew);
        } else if (from == now.data) {
            now = static_cast<Buffer<float>&&>(next);
            from = now.data, to = next.data;
        }
        for (int step = 0; step < steps; ++step) {
            blur(lattice, reverse ? lattice.dims - step : step, from, to, crew);
            float* const t = from;
            from = to, to = t;
        }
    }

private:
    // Parts do not change what is computed here, so they follow the threads.
    int shares_of(const Crew& crew) const { return count < 65536 ? 1 : crew.size; }
    void blur(const Lattice& lattice, int axis, const float* from, float* to, const Crew& crew) const {
        const std::int64_t vertices = lattice.vertices, width = lanes;
        const std::int32_t* neighbours = lattice.neighbours.data + axis * (vertices + 1) * 2;
        const int shares = shares_of(crew);
        std::memset(to, 0, static_cast<std::size_t>(lanes) * sizeof(float));
        parallel(crew, shares, [=](int i) {
            Range range = share(vertices, 1, i, shares);
            ++range.begin, ++range.end;
            blur_any(neighbours, from, to, range, width);
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

