#include "pictures.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <list>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

namespace tag2mask {
namespace {

// A lattice with the barycentric weights that carry the symmetric normalization.
struct NormalizedLattice {
    std::shared_ptr<Lattice> lattice;
    Buffer<float> weights;
};

std::shared_ptr<NormalizedLattice> normalized(std::shared_ptr<Lattice> lattice) {
    auto out = std::make_shared<NormalizedLattice>();
    if (!out->weights.resize(static_cast<std::size_t>(lattice->pixels * (lattice->dims + 1)))) throw std::bad_alloc();
    require(kernels().normalized_weights(*lattice, out->weights.data));
    out->lattice = std::move(lattice);
    return out;
}

// The pixels of one picture that take part. Coordinates count from the corner of their bounding box, so that a
// padded picture gets the very lattice of the picture without padding.
struct Region {
    std::int64_t top = 0, left = 0, height = 0, width = 0;
    std::vector<std::int64_t> index;  // empty: every pixel of the picture, in order
    std::int64_t pixels = 0;
    bool box = true;  // the pixels fill their bounding box

    const std::int64_t* pointer() const { return index.empty() ? nullptr : index.data(); }
};

Region region_of(const std::uint8_t* valid, std::int64_t height, std::int64_t width) {
    Region r;
    r.height = height, r.width = width, r.pixels = height * width;
    if (valid == nullptr || std::find(valid, valid + r.pixels, std::uint8_t{0}) == valid + r.pixels) return r;
    std::int64_t top = height, left = width, bottom = -1, right = -1;
    for (std::int64_t y = 0; y < height; ++y) {
        for (std::int64_t x = 0; x < width; ++x) {
            if (valid[y * width + x] == 0) continue;
            r.index.push_back(y * width + x);
            top = std::min(top, y), bottom = std::max(bottom, y);
            left = std::min(left, x), right = std::max(right, x);
        }
    }
    r.pixels = static_cast<std::int64_t>(r.index.size());
    r.top = top, r.left = left, r.height = bottom + 1 - top, r.width = right + 1 - left;
    r.box = r.pixels == r.height * r.width;
    return r;
}

// x / sxy, y / sxy [, r / srgb, g / srgb, b / srgb] of the pixels of a region; rgb null: the first two.
Buffer<float> features_of(const Region& region, const std::uint8_t* rgb, std::int64_t height, std::int64_t width,
                          float sigma_xy, float sigma_rgb) {
    const std::int64_t n = region.pixels;
    Buffer<float> out;
    if (!out.resize(static_cast<std::size_t>((rgb != nullptr ? 5 : 2) * n))) throw std::bad_alloc();
    const std::int64_t* index = region.pointer();
    float *fx = out.data, *fy = out.data + n;
    if (index == nullptr) {
        for (std::int64_t y = 0; y < height; ++y) {
            const float v = static_cast<float>(y) / sigma_xy;
            for (std::int64_t x = 0; x < width; ++x) {
                fx[y * width + x] = static_cast<float>(x) / sigma_xy;
                fy[y * width + x] = v;
            }
        }
    } else {
        for (std::int64_t i = 0; i < n; ++i) {
            fx[i] = static_cast<float>(index[i] % width - region.left) / sigma_xy;
            fy[i] = static_cast<float>(index[i] / width - region.top) / sigma_xy;
        }
    }
    for (int c = 0; rgb != nullptr && c < 3; ++c) {
        const std::uint8_t* plane = rgb + c * height * width;
        float* f = out.data + (2 + c) * n;
        for (std::int64_t i = 0; i < n; ++i) f[i] = static_cast<float>(plane[index != nullptr ? index[i] : i]) / sigma_rgb;
    }
    return out;
}

// Spatial lattices depend on size and width only. The least recently used one goes first.
constexpr std::size_t kCached = 16;
struct CacheEntry {
    std::int64_t height, width;
    float sigma;
    std::shared_ptr<NormalizedLattice> value;
};
std::mutex cache_mutex;
std::list<CacheEntry> cache;

std::shared_ptr<NormalizedLattice> spatial_lattice(const Region& region, std::int64_t height, std::int64_t width, float sigma) {
    const auto find = [&]() -> std::shared_ptr<NormalizedLattice> {
        for (auto it = cache.begin(); it != cache.end(); ++it) {
            if (it->height != region.height || it->width != region.width || it->sigma != sigma) continue;
            cache.splice(cache.begin(), cache, it);
            return it->value;
        }
        return nullptr;
    };
    if (region.box) {
        const std::lock_guard<std::mutex> lock(cache_mutex);
        if (auto found = find()) return found;
    }
    const Buffer<float> features = features_of(region, nullptr, height, width, sigma, 1.0f);
    auto made = normalized(make_lattice(features.data, 2, region.pixels));
    if (region.box) {
        const std::lock_guard<std::mutex> lock(cache_mutex);
        if (auto found = find()) return found;
        cache.push_front({region.height, region.width, sigma, made});
        if (cache.size() > kCached) cache.pop_back();
    }
    return made;
}

// Threads that share one picture after the other. Parts are claimed from one word that also holds the number of the
// round, so that a thread that overslept a round cannot take part in the next one with stale work.
class Team {
public:
    explicit Team(int size) {
        crew_.size = std::max(1, size);
        if (crew_.size == 1) return;
        crew_.self = this;
        crew_.run = [](void* self, int parts, void (*work)(const void*, int), const void* context) {
            static_cast<Team*>(self)->run(parts, work, context);
        };
        for (int t = 1; t < crew_.size; ++t) {
            threads_.emplace_back([this] {
                for (int idle = 0; !stop_.load(std::memory_order_relaxed); ++idle) {
                    if (take()) idle = 0;
                    else if (idle > 2000) std::this_thread::yield();
                }
            });
        }
    }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;
    ~Team() {
        stop_ = true;
        for (std::thread& t : threads_) t.join();
    }
    const Crew& crew() const { return crew_; }

private:
    // word: round (32 bits), parts (16), next part (16)
    void run(int parts, void (*work)(const void*, int), const void* context) {
        work_ = work, context_ = context;
        done_.store(0, std::memory_order_relaxed);
        const std::uint64_t round = (word_.load(std::memory_order_relaxed) >> 32) + 1;
        word_.store(round << 32 | static_cast<std::uint64_t>(parts) << 16, std::memory_order_release);
        while (take()) {}
        for (int idle = 0; done_.load(std::memory_order_acquire) < parts; ++idle) {
            if (idle > 2000) std::this_thread::yield();
        }
    }
    bool take() {
        std::uint64_t word = word_.load(std::memory_order_acquire);
        do {
            if ((word & 0xffff) >= ((word >> 16) & 0xffff)) return false;
        } while (!word_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel, std::memory_order_acquire));
        work_(context_, static_cast<int>(word & 0xffff));
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }

    Crew crew_;
    std::vector<std::thread> threads_;
    std::atomic<bool> stop_{false};
    std::atomic<std::uint64_t> word_{0};
    std::atomic<int> done_{0};
    void (*work_)(const void*, int) = nullptr;
    const void* context_ = nullptr;
};

// Calls work(i, crew) for i in 0 .. count - 1: pictures side by side, and the threads that are left inside a picture
// that is large enough. Pictures side by side change no result; for threads inside a picture see `splat_parts`.
template <class Work>
void for_each_picture(std::int64_t count, std::int64_t pixels, int threads, const Work& work) {
    const auto side_by_side = static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, count)));
    std::atomic<std::int64_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto run = [&]() {
        try {
            Team team(pixels < kSharedPixels ? 1 : threads / side_by_side);
            for (std::int64_t i = next++; i < count; i = next++) work(i, team.crew());
        } catch (...) {
            const std::lock_guard<std::mutex> lock(error_mutex);
            error = std::current_exception();
            next = count;
        }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < side_by_side; ++t) others.emplace_back(run);
    run();
    for (std::thread& t : others) t.join();
    if (error) std::rethrow_exception(error);
}

float clipped(float score) { return std::min(std::max(score, 1e-5f), 1.0f); }

// q = softmax(-unary) = clipped scores over their sum, where the filters do not reach.
bool fill_invalid(const CRFBatch& b, std::int64_t picture, const std::vector<std::int64_t>& labels) {
    const std::int64_t n = b.height * b.width;
    bool good = true;
    for (std::int64_t r = 0; r < b.runs; ++r) {
        const std::int64_t at = (picture * b.runs + r) * b.labels * n;
        for (std::int64_t i = 0; i < n; ++i) {
            if (b.valid[picture * n + i] != 0) continue;
            float sum = 0.0f;
            for (const std::int64_t l : labels) {
                good = good && !std::isnan(b.scores[at + l * n + i]);
                sum += clipped(b.scores[at + l * n + i]);
            }
            for (const std::int64_t l : labels) b.marginals[at + l * n + i] = clipped(b.scores[at + l * n + i]) / sum;
        }
    }
    return good;
}

Stack stack_of(std::int64_t runs, std::int64_t labels) {
    Stack s;
    const auto padded = [](std::int64_t count, int unit) { return static_cast<int>((count + unit - 1) / unit * unit); };
    s.runs = static_cast<int>(runs);
    s.labels = static_cast<int>(labels);
    if (labels <= 4) {
        s.run_lanes = 4;
        s.lanes = runs == 1 ? 4 : padded(4 * runs, kLanes);
    } else {
        s.run_lanes = padded(labels, kLanes);
        s.lanes = static_cast<int>(runs) * s.run_lanes;
    }
    return s;
}

// Marginals from pixel-major to their planes, in blocks that stay in the first cache.
void unstack(const float* marginals, const Stack& stack, const Region& region, const std::vector<float*>& planes) {
    const std::int64_t lanes = stack.lanes, block = 128;
    const std::int64_t* index = region.pointer();
    for (std::int64_t start = 0; start < region.pixels; start += block) {
        const std::int64_t end = std::min(start + block, region.pixels);
        for (int r = 0; r < stack.runs; ++r) {
            for (int l = 0; l < stack.labels; ++l) {
                const float* from = marginals + r * stack.run_lanes + l;
                float* to = planes[static_cast<std::size_t>(r * stack.labels + l)];
                if (index == nullptr) {
                    for (std::int64_t i = start; i < end; ++i) to[i] = from[i * lanes];
                } else {
                    for (std::int64_t i = start; i < end; ++i) to[index[i]] = from[i * lanes];
                }
            }
        }
    }
}

// False when a score is NaN.
bool crf_picture(const CRFBatch& b, const CRFSettings& settings, std::int64_t picture, const Crew& crew) {
    const std::int64_t n = b.height * b.width;
    std::vector<std::int64_t> labels;
    for (std::int64_t l = 0; l < b.labels; ++l) {
        if (b.present[picture * b.labels + l] != 0) labels.push_back(l);
    }
    if (labels.empty()) return true;
    const Region region = region_of(b.valid != nullptr ? b.valid + picture * n : nullptr, b.height, b.width);
    if (region.pixels < n && !fill_invalid(b, picture, labels)) return false;
    if (region.pixels == 0) return true;

    std::vector<const float*> scores;
    std::vector<float*> marginals;
    for (std::int64_t r = 0; r < b.runs; ++r) {
        for (const std::int64_t l : labels) {
            scores.push_back(b.scores + ((picture * b.runs + r) * b.labels + l) * n);
            marginals.push_back(b.marginals + ((picture * b.runs + r) * b.labels + l) * n);
        }
    }
    MeanField job;
    job.stack = stack_of(b.runs, static_cast<std::int64_t>(labels.size()));
    Buffer<float> q;
    if (!q.resize(static_cast<std::size_t>(region.pixels * job.stack.lanes))) throw std::bad_alloc();
    if (!kernels().load_scores(scores.data(), region.pointer(), region.pixels, job.stack, q.data)) return false;

    const auto spatial = spatial_lattice(region, b.height, b.width, settings.gaussian_sxy);
    const Buffer<float> features = features_of(region, b.rgb + picture * 3 * n, b.height, b.width,
                                               settings.bilateral_sxy, settings.bilateral_srgb);
    const auto bilateral = normalized(make_lattice(features.data, 5, region.pixels));
    job.spatial = spatial->lattice.get();
    job.spatial_weights = spatial->weights.data;
    job.spatial_compat = settings.gaussian_compat;
    job.bilateral = bilateral->lattice.get();
    job.bilateral_weights = bilateral->weights.data;
    job.bilateral_compat = settings.bilateral_compat;
    job.iterations = settings.iterations;
    require(kernels().mean_field(job, q.data, crew));
    unstack(q.data, job.stack, region, marginals);
    return true;
}

}  // namespace

namespace {

// The fastest set that this CPU runs, or the one that TAG2MASK_ISA names if the CPU runs it.
const Kernels& pick_kernels() {
    const char* const wish = std::getenv("TAG2MASK_ISA");
    const auto wanted = [wish](const char* name) { return wish == nullptr || std::strcmp(wish, name) == 0; };
#ifdef T2M_HAS_AVX512
    if (wanted("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) return kernels_avx512();
#endif
#ifdef T2M_HAS_AVX2
    if (wanted("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_avx2();
#endif
    static_cast<void>(wanted);
    return kernels_baseline();
}

}  // namespace

const Kernels& kernels() {
    static const Kernels& picked = pick_kernels();
    return picked;
}

void require(Status status) {
    switch (status) {
        case Status::ok: return;
        case Status::out_of_memory: throw std::bad_alloc();
        case Status::not_finite: throw std::invalid_argument("features hold NaN or infinite values; the lattice needs finite ones");
        case Status::too_fine:
            throw std::invalid_argument(
                "features span too many lattice cells to be numbered in 64 bits; divide them by a larger sigma");
    }
}

std::shared_ptr<Lattice> make_lattice(const float* features, int dims, std::int64_t pixels) {
    auto lattice = std::make_shared<Lattice>();
    require(kernels().build(*lattice, features, dims, pixels));
    return lattice;
}

std::int64_t dense_crf(const CRFBatch& batch, const CRFSettings& settings, int threads) {
    std::atomic<std::int64_t> bad{batch.batch};
    for_each_picture(batch.batch, batch.height * batch.width, threads, [&](std::int64_t i, const Crew& crew) {
        if (crf_picture(batch, settings, i, crew)) return;
        std::int64_t seen = bad;
        while (i < seen && !bad.compare_exchange_weak(seen, i)) {}
    });
    return bad < batch.batch ? bad.load() : -1;
}

void filter(const Lattice& lattice, const float* values, float* out, int channels, bool transpose, int threads) {
    const Team team(lattice.pixels < kSharedPixels ? 1 : threads);
    require(kernels().filter(lattice, values, out, channels, transpose, team.crew()));
}

void bilateral_filter(const FilterBatch& batch, float sigma_xy, float sigma_rgb, bool transpose, int threads) {
    const std::int64_t n = batch.height * batch.width;
    const Region region = region_of(nullptr, batch.height, batch.width);
    for_each_picture(batch.batch, batch.height * batch.width, threads, [&](std::int64_t i, const Crew& crew) {
        const Buffer<float> features =
            features_of(region, batch.rgb + i * 3 * n, batch.height, batch.width, sigma_xy, sigma_rgb);
        const auto lattice = make_lattice(features.data, 5, n);
        const std::int64_t at = i * batch.channels * n;
        require(kernels().filter(*lattice, batch.values + at, batch.out + at, static_cast<int>(batch.channels), transpose, crew));
    });
}

void clear_cache() {
    const std::lock_guard<std::mutex> lock(cache_mutex);
    cache.clear();
}

std::size_t cache_size() {
    const std::lock_guard<std::mutex> lock(cache_mutex);
    return cache.size();
}

}  // namespace tag2mask
