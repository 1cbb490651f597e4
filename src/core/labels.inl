// From logits at the size of the network's maps to labels at the size of the picture. Part of kernels.inl.
//
// Bilinear as torch has it (align_corners=False), row by row. Between two cells of a row every label's logits are a
// straight line, so that a label which is the largest at both is the largest between them: of a single map only pixels
// between cells of different labels are looked at. A mean over maps, or known tags, take the probabilities of all.

T2M_INLINE std::int64_t whole_vectors(std::int64_t count) { return (count + kBlock - 1) / kBlock * kBlock; }

// Where pixel `i` of a side of `pixels` lies between the `cells` of a map: after which one, and how far.
T2M_INLINE float between(std::int64_t i, std::int64_t pixels, std::int64_t cells, std::int64_t* low) {
    const float factor = static_cast<float>(static_cast<double>(cells) / static_cast<double>(pixels));
    const float place = (static_cast<float>(i) + 0.5f) * factor - 0.5f;
    const float at = place > 0.0f ? place : 0.0f;
    const std::int64_t cell = static_cast<std::int64_t>(at);
    *low = cell < cells - 1 ? cell : cells - 1;
    return at - static_cast<float>(*low);
}

// The same for all pixels of a row: the first pixel after each cell [cells + 1], and the distances [pixels + kBlock].
T2M_INLINE void set_columns(std::int64_t cells, std::int64_t pixels, std::int64_t* begin, float* weight) {
    std::int64_t done = 0, low = 0;
    for (std::int64_t x = 0; x < pixels; ++x) {
        weight[x] = between(x, pixels, cells, &low);
        for (; done <= low; ++done) begin[done] = x;
    }
    for (; done <= cells; ++done) begin[done] = pixels;
    for (std::int64_t x = pixels; x < pixels + kBlock; ++x) weight[x] = 0.0f;
}

// The logits of a map at the height of a row of pixels, [labels][stride]; the last cell comes twice.
T2M_INLINE void row_of_cells(const ScoreMap& map, int labels, std::int64_t y, std::int64_t height, std::int64_t stride, float* out) {
    std::int64_t low;
    const float weight = between(y, height, map.height, &low);
    const std::int64_t step = low + 1 < map.height ? map.width : 0;
    for (int l = 0; l < labels; ++l, out += stride) {
        const float* const above = map.logits + (l * map.height + low) * map.width;
        for (std::int64_t c = 0; c < map.width; ++c) out[c] = above[c] + (above[c + step] - above[c]) * weight;
        for (std::int64_t c = map.width; c < stride; ++c) out[c] = out[map.width - 1];
    }
}

// The first of the largest of planes [labels][stride] at each of `count` places.
T2M_INLINE void largest(const float* planes, int labels, std::int64_t stride, std::int64_t count, std::uint8_t* out) {
    typedef typename Integers<Wide>::Type I;
    for (std::int64_t x = 0; x < count; x += kWidth<Wide>) {
        Wide best = load<Wide>(planes + x);
        I label = {};
        for (int l = 1; l < labels; ++l) {
            const Wide value = load<Wide>(planes + l * stride + x);
            label = value > best ? I{} + l : label;
            best = larger(best, value);
        }
        const std::int64_t here = count - x < kWidth<Wide> ? count - x : kWidth<Wide>;
        for (std::int64_t i = 0; i < here; ++i) out[x + i] = static_cast<std::uint8_t>(label[i]);
    }
}

// Labels of the pixels [first, last) that lie after cell `c`.
T2M_INLINE void labels_between(const float* cells, int labels, std::int64_t stride, std::int64_t c, const float* weight,
                               std::int64_t first, std::int64_t last, std::uint8_t* out) {
    typedef typename Integers<Wide>::Type I;
    float reached = -__builtin_inff();  // what the best label has everywhere here
    for (int l = 0; l < labels; ++l) {
        const float *const at = cells + l * stride + c, least = at[0] < at[1] ? at[0] : at[1];
        reached = reached < least ? least : reached;
    }
    for (std::int64_t x = first; x < last; x += kWidth<Wide>) {
        const Wide w = load<Wide>(weight + x);
        Wide best = splat<Wide>(-__builtin_inff());
        I label = {};
        for (int l = 0; l < labels; ++l) {
            const float *const at = cells + l * stride + c;
            if (at[0] < reached && at[1] < reached) continue;
            const Wide value = at[0] + (at[1] - at[0]) * w;
            label = value > best ? I{} + l : label;
            best = larger(best, value);
        }
        const std::int64_t here = last - x < kWidth<Wide> ? last - x : kWidth<Wide>;
        for (std::int64_t i = 0; i < here; ++i) out[x + i] = static_cast<std::uint8_t>(label[i]);
    }
}

// The logits of all pixels of a row, [labels][wide].
T2M_INLINE void row_of_pixels(const float* cells, int labels, std::int64_t stride, std::int64_t count, const std::int64_t* begin,
                              const float* weight, std::int64_t wide, float* out) {
    for (int l = 0; l < labels; ++l, cells += stride, out += wide) {
        for (std::int64_t c = 0; c < count; ++c) {
            const Wide start = splat<Wide>(cells[c]), rise = splat<Wide>(cells[c + 1] - cells[c]);
            for (std::int64_t x = begin[c]; x < begin[c + 1]; x += kWidth<Wide>) store(out + x, start + rise * load<Wide>(weight + x));
        }
    }
}

// One over the sum of e^(value - the largest) at x of the chosen planes; what is summed replaces the values if `keep`.
template <class Chosen>
T2M_INLINE Wide exponentials_of(float* values, int labels, std::int64_t wide, bool keep, const Chosen& chosen) {
    Wide top = splat<Wide>(-__builtin_inff()), sum = {};
    for (int l = 0; l < labels; ++l) {
        if (chosen(l)) top = larger(top, load<Wide>(values + l * wide));
    }
    for (int l = 0; l < labels; ++l) {
        if (!chosen(l)) continue;
        const Wide e = exponential(load<Wide>(values + l * wide) - top);
        if (keep) store(values + l * wide, e);
        sum += e;
    }
    return 1.0f / sum;
}

// Adds the probabilities of one map: those of a softmax, or, where only some labels are allowed, that of the background
// among all and a softmax of the allowed objects for the rest.
T2M_INLINE void add_probabilities(const LabelJob& job, float* values, std::int64_t wide, float* sums) {
    const std::uint8_t* const allowed = job.allowed;
    for (std::int64_t x = 0; x < job.width; x += kWidth<Wide>) {
        float *const at = values + x, *const to = sums + x;
        if (allowed == nullptr) {
            const Wide scale = exponentials_of(at, job.labels, wide, true, [](int) { return true; });
            for (int l = 0; l < job.labels; ++l) store(to + l * wide, load<Wide>(to + l * wide) + load<Wide>(at + l * wide) * scale);
            continue;
        }
        const Wide background = load<Wide>(at);
        Wide top = background;
        for (int l = 1; l < job.labels; ++l) top = larger(top, load<Wide>(at + l * wide));
        const Wide first = exponential(background - top) * exponentials_of(at, job.labels, wide, false, [](int) { return true; });
        const auto objects = [allowed](int l) { return l > 0 && allowed[l] != 0; };
        const Wide scale = (1.0f - first) * exponentials_of(at, job.labels, wide, true, objects);
        store(to, load<Wide>(to) + first);
        for (int l = 1; l < job.labels; ++l) {
            if (objects(l)) store(to + l * wide, load<Wide>(to + l * wide) + load<Wide>(at + l * wide) * scale);
        }
    }
}

// The rows [first, last) of a picture.
Status rows_of_labels(const LabelJob& job, std::int64_t first, std::int64_t last) {
    std::int64_t most = 0;
    for (int m = 0; m < job.count; ++m) most = job.maps[m].width > most ? job.maps[m].width : most;
    const std::int64_t stride = whole_vectors(most + 1), wide = whole_vectors(job.width) + kBlock;
    const bool single = job.count == 1 && job.allowed == nullptr;
    Buffer<float> cells(static_cast<std::size_t>(job.labels * stride)), weights(static_cast<std::size_t>(job.count * wide));
    Buffer<std::int64_t> begins(static_cast<std::size_t>(job.count * stride));
    Buffer<std::uint8_t> best(static_cast<std::size_t>(stride));
    Buffer<float> values(single ? 1 : static_cast<std::size_t>(job.labels * wide)), sums(values.size);
    if (!cells.ok() || !weights.ok() || !begins.ok() || !best.ok() || !values.ok() || !sums.ok()) return Status::out_of_memory;
    for (int m = 0; m < job.count; ++m) {
        set_columns(job.maps[m].width, job.width, begins.data + m * stride, weights.data + m * wide);
    }
    for (std::int64_t y = first; y < last; ++y) {
        std::uint8_t* const out = job.out + y * job.width;
        if (!single) sums.zero();
        for (int m = 0; m < job.count; ++m) {
            const ScoreMap& map = job.maps[m];
            const std::int64_t* const begin = begins.data + m * stride;
            const float* const weight = weights.data + m * wide;
            row_of_cells(map, job.labels, y, job.height, stride, cells.data);
            if (!single) {
                row_of_pixels(cells.data, job.labels, stride, map.width, begin, weight, wide, values.data);
                add_probabilities(job, values.data, wide, sums.data);
                continue;
            }
            largest(cells.data, job.labels, stride, map.width + 1, best.data);
            for (std::int64_t c = 0; c < map.width; ++c) {
                if (best[static_cast<std::size_t>(c)] == best[static_cast<std::size_t>(c + 1)]) {
                    std::memset(out + begin[c], best.data[c], static_cast<std::size_t>(begin[c + 1] - begin[c]));
                } else {
                    labels_between(cells.data, job.labels, stride, c, weight, begin[c], begin[c + 1], out);
                }
            }
        }
        if (!single) largest(sums.data, job.labels, wide, job.width, out);
    }
    return Status::ok;
}

Status labels(const LabelJob& job, const Crew& crew) {
    constexpr int most = 64;
    Status status[most] = {};
    const int parts = crew.size < most ? crew.size : most;
    parallel(crew, parts, [&](int part) { status[part] = rows_of_labels(job, job.height * part / parts, job.height * (part + 1) / parts); });
    for (int part = 0; part < parts; ++part) {
        if (status[part] != Status::ok) return status[part];
    }
    return Status::ok;
}
