// Mean field. Part of kernels.inl.
//
// Pixels are worked on in blocks: the filters run over the lanes of a pixel, everything else over the pixels of a
// label. Sums are taken in the order of the reference as far as threads and strips allow, since the steps amplify
// rounding that differs from its rounding.

static_assert(kBlock % kWidth<Wide> == 0, "a block is whole vectors");

bool load_scores(const float* const* planes, int count, const Order& order, std::int64_t pixels, bool energies, float* out) {
    typedef typename Integers<Wide>::Type I;
    I wrong = {};
    Walk walk(order, 0);
    std::int64_t at[kBlock];
    for (std::int64_t start = 0; start < pixels; start += kBlock) {
        const int here = static_cast<int>(pixels - start < kBlock ? pixels - start : kBlock);
        const bool row = walk.next(here, at);
        for (int l = 0; l < count; ++l, out += kBlock) {
            const float* const plane = planes[l];
            if (row && here == kBlock) {
                std::memcpy(out, plane + at[0], kBlock * sizeof(float));
            } else {
                for (int p = 0; p < kBlock; ++p) out[p] = p < here ? plane[row ? at[0] + p : at[p]] : 1.0f;
            }
            for (int h = 0; h < kBlock; h += kWidth<Wide>) {
                const Wide raw = load<Wide>(out + h);
                wrong |= raw != raw;
                store(out + h, energies ? -raw : logarithm(smaller(larger(raw, splat<Wide>(1e-5f)), splat<Wide>(1.0f))));
            }
        }
    }
    int any = 0;
    for (int p = 0; p < kWidth<Wide>; ++p) any |= wrong[p];
    return any == 0;
}

// [kBlock][lanes] to [lanes][kBlock] and back.
T2M_INLINE void planes_of_rows(const float* rows, std::int64_t lanes, float* planes) {
    constexpr int W = kWidth<Wide>;
    for (int h = 0; h < kBlock; h += W) {
        for (std::int64_t v = 0; v < lanes; v += 4) {
            Wide x[4];
            for (int j = 0; j < 4; ++j) x[j] = load_fours<Wide>(rows + (h + j) * lanes + v, 4 * lanes);
            transpose_fours(x);
            for (int j = 0; j < 4; ++j) store(planes + (v + j) * kBlock + h, x[j]);
        }
    }
}
T2M_INLINE void rows_of_planes(const float* planes, std::int64_t lanes, float* rows) {
    constexpr int W = kWidth<Wide>;
    for (int h = 0; h < kBlock; h += W) {
        for (std::int64_t v = 0; v < lanes; v += 4) {
            Wide x[4];
            for (int j = 0; j < 4; ++j) x[j] = load<Wide>(planes + (v + j) * kBlock + h);
            transpose_fours(x);
            for (int j = 0; j < 4; ++j) store_fours(rows + (h + j) * lanes + v, 4 * lanes, x[j]);
        }
    }
}

// e^(log scores + messages - their maximum) of one run in place of its messages. Returns one over their sum.
T2M_INLINE Wide exponentials(const float* log_scores, float* messages, int labels) {
    Wide top = load<Wide>(log_scores) + load<Wide>(messages);
    store(messages, top);
    for (int l = 1; l < labels; ++l) {
        const Wide x = load<Wide>(log_scores + l * kBlock) + load<Wide>(messages + l * kBlock);
        store(messages + l * kBlock, x);
        top = larger(top, x);
    }
    Wide sum = {};
    for (int l = 0; l < labels; ++l) {
        const Wide e = exponential(load<Wide>(messages + l * kBlock) - top);
        store(messages + l * kBlock, e);
        sum += e;
    }
    return 1.0f / sum;
}

template <int N>
struct Constant {
    static constexpr int value = N;
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
    const std::int64_t any_lanes, pixels;

    Pass(const MeanField& job, const Vertices& spatial_values, const Vertices& bilateral_values, int part)
        : spatial(*job.spatial), bilateral(*job.bilateral), spatial_now(spatial_values.now.data),
          bilateral_now(bilateral_values.now.data), spatial_next(spatial_values.part(part)),
          bilateral_next(bilateral_values.part(part)),
          spatial_weight(job.spatial_compat * job.spatial->slice_scale()),
          bilateral_weight(job.bilateral_compat * job.bilateral->slice_scale()), any_lanes(job.stack.lanes),
          pixels(job.spatial->pixels) {}

    T2M_INLINE std::int64_t lanes() const { return NV > 0 ? NV * W : any_lanes; }

    // Whether the vertices are so large that their values lie outside of the second cache.
    T2M_INLINE bool far_away() const { return NV == 0 && lanes() >= 96; }
    // Asks for the values of a pixel's vertices ahead of their use.
    template <int T, int C>
    T2M_INLINE void fetch(const Places<C>& places, std::int64_t p, const float* values) const {
        if (p > 0 && places.cell[p] == places.cell[p - 1]) return;
        const std::int32_t* corner = places.corners(p);
        for (int k = 0; k < C; ++k) {
            for (int i = 0; i < T * W; i += 16) __builtin_prefetch(behind(values, corner[k], lanes()) + i);
        }
    }

    // Messages of T vectors behind lane `v`.
    template <int T>
    T2M_INLINE void slice(std::int64_t p, int count, std::int64_t v, float* rows) const {
        const Places<3> nearby = spatial;  // copies: for all the compiler knows, stores change members
        const Places<6> similar = bilateral;
        const float *const nearby_values = spatial_now + v, *const similar_values = bilateral_now + v;
        for (int i = 0; i < count; ++i) {
            F s[T], b[T];
            gather<F, T>(nearby, p + i, nearby_values, lanes(), s);
            gather<F, T>(similar, p + i, similar_values, lanes(), b);
            if (far_away()) {
                fetch<T>(nearby, p + i, spatial_next + v);
                fetch<T>(similar, p + i, bilateral_next + v);
            }
            float* const to = rows + i * lanes() + v;
            for (int k = 0; k < T; ++k) store(to + k * W, spatial_weight * s[k] + bilateral_weight * b[k]);
        }
    }
    template <int T>
    T2M_INLINE void splat(std::int64_t p, int count, std::int64_t v, const float* rows) const {
        const Places<3> nearby = spatial;
        const Places<6> similar = bilateral;
        float *const nearby_values = spatial_next + v, *const similar_values = bilateral_next + v;
        for (int i = 0; i < count; ++i) {
            if (far_away() && p + i + kBlock < pixels) {
                fetch<T>(nearby, p + i + kBlock, spatial_now + v);
                fetch<T>(similar, p + i + kBlock, bilateral_now + v);
            }
            F q[T];
            for (int k = 0; k < T; ++k) q[k] = load<F>(rows + i * lanes() + v + k * W);
            scatter<F, T>(nearby, p + i, nearby_values, lanes(), q);
            scatter<F, T>(similar, p + i, similar_values, lanes(), q);
        }
    }
    // Calls work(v, T) for the vectors behind lane `v`, T of them as a constant.
    template <class Work>
    T2M_INLINE void tiles(const Work& work) const {
        if constexpr (NV > 0) {
            work(0, Constant<NV>{});
        } else {
            std::int64_t v = 0;
            for (; v + 6 * W <= lanes(); v += 6 * W) work(v, Constant<6>{});
            switch ((lanes() - v) / W) {
                case 1: return work(v, Constant<1>{});
                case 2: return work(v, Constant<2>{});
                case 3: return work(v, Constant<3>{});
                case 4: return work(v, Constant<4>{});
                case 5: return work(v, Constant<5>{});
                default: return;
            }
        }
    }
    void messages(std::int64_t p, int count, float* rows, float* planes) const {
        tiles([=](std::int64_t v, auto t) { slice<t.value>(p, count, v, rows); });
        planes_of_rows(rows, lanes(), planes);
    }
    void send(std::int64_t p, int count, const float* planes, float* rows) const {
        rows_of_planes(planes, lanes(), rows);
        tiles([=](std::int64_t v, auto t) { splat<t.value>(p, count, v, rows); });
    }
    // `scratch` holds zeros [2][lanes][kBlock].
    void run(const MeanField& job, float* scratch, Range range, bool first, bool last) const {
        const int labels = job.stack.labels;
        const std::int64_t block = job.stack.planes() * kBlock;
        const std::int64_t ahead = (1 + 1024 / block) * block;  // about four kilobytes, or the next block
        float* const rows = scratch;
        float* const planes = scratch + lanes() * kBlock;
        const float* log_scores = job.log_scores + range.begin / kBlock * block;
        Walk walk(job.order, range.begin);
        std::int64_t at[kBlock];
        for (std::int64_t p = range.begin; p < range.end; p += kBlock) {
            const int count = static_cast<int>(range.end - p < kBlock ? range.end - p : kBlock);
            const bool row = last && walk.next(count, at);
            for (int l = 0; l < block; l += 16) __builtin_prefetch(log_scores + ahead + l);
            if (first) std::memset(planes, 0, static_cast<std::size_t>(lanes() * kBlock) * sizeof(float));
            else messages(p, count, rows, planes);
            for (int r = 0; r < job.stack.runs; ++r, log_scores += labels * kBlock) {
                for (int h = 0; h < kBlock; h += kWidth<Wide>) {
                    float* const q = planes + r * labels * kBlock + h;
                    const Wide scale = exponentials(log_scores + h, q, labels);
                    for (int l = 0; l < labels; ++l) {
                        const Wide x = load<Wide>(q + l * kBlock) * scale;
                        if (last) put(x, row, at, h, count, job.marginals[r * labels + l]);
                        else store(q + l * kBlock, x);
                    }
                }
            }
            if (!last) send(p, count, planes, rows);
        }
    }
    // Marginals of the pixels from `h` on of a block.
    T2M_INLINE static void put(Wide q, bool row, const std::int64_t* at, int h, int count, float* plane) {
        if (row && count == kBlock) return store(plane + at[0] + h, q);
        float some[kWidth<Wide>];
        store(some, q);
        for (int i = h; i < count && i < h + kWidth<Wide>; ++i) plane[row ? at[0] + i : at[i]] = some[i - h];
    }
};

template <class F, int NV>
Status mean_field_vectors(const MeanField& job, const Crew& crew) {
    const std::int64_t lanes = job.stack.lanes, pixels = job.spatial->pixels;
    const int parts = splat_parts(pixels, crew);
    Vertices spatial, bilateral;
    Buffer<float> scratch(static_cast<std::size_t>(2 * parts * kBlock * lanes));
    if (!scratch.ok() || !spatial.start(*job.spatial, lanes, parts) || !bilateral.start(*job.bilateral, lanes, parts))
        return Status::out_of_memory;
    scratch.zero();
    for (int i = 0; i <= job.iterations; ++i) {
        if (i > 0) {
            spatial.turn(*job.spatial, false, crew);
            bilateral.turn(*job.bilateral, false, crew);
            spatial.next.zero();
            bilateral.next.zero();
        }
        parallel(crew, parts, [&, i](int part) {
            const Pass<F, NV> pass(job, spatial, bilateral, part);
            pass.run(job, scratch.data + 2 * part * kBlock * lanes, share(pixels, kBlock, part, parts), i == 0,
                     i == job.iterations);
        });
    }
    return Status::ok;
}

Status mean_field(const MeanField& job, const Crew& crew) {
    const int lanes = job.stack.lanes;
    if (lanes == 4) return mean_field_vectors<F4, 1>(job, crew);
    if (kWidth<Wide> == 16 && lanes % 16 == 0) {
        switch (lanes / 16) {
            case 1: return mean_field_vectors<Wide, 1>(job, crew);
            case 2: return mean_field_vectors<Wide, 2>(job, crew);
            case 3: return mean_field_vectors<Wide, 3>(job, crew);
            case 6: return mean_field_vectors<Wide, 6>(job, crew);
            default: return mean_field_vectors<Wide, 0>(job, crew);
        }
    }
    switch (lanes / kWidth<Plain>) {
        case 1: return mean_field_vectors<Plain, 1>(job, crew);
        case 2: return mean_field_vectors<Plain, 2>(job, crew);
        case 3: return mean_field_vectors<Plain, 3>(job, crew);
        case 6: return mean_field_vectors<Plain, 6>(job, crew);
        default: return mean_field_vectors<Plain, 0>(job, crew);
    }
}
