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

#ifdef _WIN32
#include <malloc.h>
#else
#include <pthread.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace tag2mask {
namespace {

// Large pieces of memory lie on huge pages where there are any: they are read all over, and a small page costs a fault
// and a look-up each. Given back they are kept, up to a bound, since the system clears fresh pages, which can cost as
// much as the CRF itself.
constexpr std::size_t kHuge = std::size_t{1} << 21;
constexpr std::size_t kKept = std::size_t{384} << 20;  // bytes

void* allocate(std::size_t bytes) {
#ifdef _WIN32
    return _aligned_malloc(bytes, 64);
#else
    void* const p = std::aligned_alloc(bytes >= kHuge ? kHuge : 64, bytes);
#ifdef __linux__
    if (p != nullptr && bytes >= kHuge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
#endif
}

void release(void* p) {
#ifdef _WIN32
    _aligned_free(p);
#else
    std::free(p);
#endif
}

class Memory {
public:
    Memory() = default;
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory() { keep(0); }

    void* take(std::size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        // The smallest that is large enough and not much too large.
        auto best = kept_.end();
        for (auto it = kept_.begin(); it != kept_.end(); ++it) {
            if (it->bytes < bytes || it->bytes > 2 * bytes) continue;
            if (best == kept_.end() || it->bytes < best->bytes) best = it;
        }
        lent_.reserve(lent_.size() + 1);
        Piece piece{nullptr, (bytes + kHuge - 1) / kHuge * kHuge};
        if (best != kept_.end()) {
            piece = *best;
            kept_.erase(best);
        } else {
            piece.data = allocate(piece.bytes);
        }
        if (piece.data != nullptr) lent_.push_back(piece);
        return piece.data;
    }
    void give(void* p) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto it = std::find_if(lent_.begin(), lent_.end(), [p](const Piece& piece) { return piece.data == p; });
        kept_.push_back(*it);
        lent_.erase(it);
        keep(kKept);
    }
    void clear() {
        const std::lock_guard<std::mutex> lock(mutex_);
        keep(0);
    }
    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

private:
    struct Piece {
        void* data;
        std::size_t bytes;
    };
    void keep(std::size_t bytes) {
        std::size_t sum = 0, gone = 0;
        for (const Piece& piece : kept_) sum += piece.bytes;
        for (; sum > bytes; ++gone) {
            sum -= kept_[gone].bytes;
            release(kept_[gone].data);
        }
        kept_.erase(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(gone));
    }

    std::mutex mutex_;
    std::vector<Piece> lent_, kept_;  // kept: the longest unused first
};
Memory memory;

std::shared_ptr<Lattice> built(const Features& features) {
    auto lattice = std::make_shared<Lattice>();
    require(kernels().build(*lattice, features));
    return lattice;
}

std::shared_ptr<Lattice> normalized(const Features& features) {
    auto lattice = built(features);
    require(kernels().normalize(*lattice));
    return lattice;
}

// The pixels of one picture that take part. Coordinates count from the corner of their bounding box, so that a
// padded picture gets the very lattice of the picture without padding.
struct Region {
    std::int64_t top = 0, left = 0, height = 0, width = 0;
    std::vector<std::int64_t> index;  // empty: all of the bounding box
    std::int64_t pixels = 0;
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
    if (r.pixels == r.height * r.width) r.index = {};
    return r;
}

// Columns of a strip, so that the cells and vertices that its rows share stay in a second cache of one megabyte: at
// most 512 for the cells, fewer where many labels and fine colors make the vertices large and many. A pixel of a
// photograph has about 8 / sigma_rgb^2 bilateral vertices of its own, and rows within sigma_xy share them.
std::int64_t strip_columns(const CRFSettings& settings, int lanes) {
    constexpr double most = 640 << 10;  // bytes
    const double fineness = std::min(1.0, 8.0 / (static_cast<double>(settings.bilateral_srgb) * settings.bilateral_srgb));
    const double column = settings.bilateral_sxy * fineness * lanes * 2 * sizeof(float);
    return static_cast<std::int64_t>(std::clamp(most / column, 64.0, 512.0));  // clamped first: it may be huge
}

constexpr std::int64_t kNoStrips = std::int64_t{1} << 32;

// Row by row, or in strips of at most so many columns where the picture is wider.
Order order_of(const Region& region, std::int64_t width, std::int64_t strip) {
    Order o;
    if (!region.index.empty()) o.index = region.index.data();
    o.stride = width;
    o.top = region.top, o.left = region.left, o.height = region.height, o.width = region.width;
    const std::int64_t count = std::max((region.width + strip - 1) / strip, std::int64_t{1});
    o.columns = ((region.width + count - 1) / count + kBlock - 1) / kBlock * kBlock;
    return o;
}

// Of the pixels of a region: place, and color where there is any.
Features features_of(const Order& order, std::int64_t pixels, float sigma_xy, const Colors& colors = {},
                     float sigma_rgb = 1.0f, bool filled = false) {
    Features f;
    f.dims = colors.any() ? 5 : 2;
    f.pixels = pixels;
    f.colors = colors;
    f.order = order;
    f.sigma_xy = sigma_xy, f.sigma_rgb = sigma_rgb;
    f.with_origin = filled && pixels % 4 != 0;  // place alone has a pixel at 0 anyway
    return f;
}

// Spatial lattices depend on size, width and strips only. The least recently used one goes first.
constexpr std::size_t kCached = 16;
struct CacheEntry {
    std::int64_t height, width, columns;
    float sigma;
    std::shared_ptr<Lattice> value;
};
std::mutex cache_mutex;
std::list<CacheEntry> cache;

#ifndef _WIN32
// A fork copies the thread that calls it and no other, so a lock that another one holds would stay locked in the child
// for ever, with half of a list behind it. The thread that forks therefore holds all of them meanwhile, in the order in
// which they are taken elsewhere. What other threads were using stays lent in the child.
void before_fork() {
    kernels();  // so that no other thread is in the middle of picking them
    cache_mutex.lock();
    memory.lock();
}
void after_fork() {
    memory.unlock();
    cache_mutex.unlock();
}
[[maybe_unused]] const int fork_handlers = pthread_atfork(before_fork, after_fork, after_fork);
#endif

std::shared_ptr<Lattice> spatial_lattice(const Region& region, const Order& order, float sigma) {
    const auto find = [&]() -> std::shared_ptr<Lattice> {
        for (auto it = cache.begin(); it != cache.end(); ++it) {
            if (it->height != region.height || it->width != region.width || it->columns != order.columns
                || it->sigma != sigma) continue;
            cache.splice(cache.begin(), cache, it);
            return it->value;
        }
        return nullptr;
    };
    if (region.index.empty()) {
        const std::lock_guard<std::mutex> lock(cache_mutex);
        if (auto found = find()) return found;
    }
    auto made = normalized(features_of(order, region.pixels, sigma));
    if (region.index.empty()) {
        const std::lock_guard<std::mutex> lock(cache_mutex);
        if (auto found = find()) return found;
        cache.push_front({region.height, region.width, order.columns, sigma, made});
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

// Up to three vectors of eight lanes, beyond that vectors of sixteen.
Stack stack_of(std::int64_t runs, std::int64_t labels) {
    Stack s;
    s.runs = static_cast<int>(runs);
    s.labels = static_cast<int>(labels);
    const auto padded = [&](int unit) { return (s.planes() + unit - 1) / unit * unit; };
    s.lanes = s.planes() <= 4 ? 4 : padded(s.planes() <= 3 * kLanes ? kLanes : 2 * kLanes);
    return s;
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
    const Order order = order_of(region, b.width, strip_columns(settings, job.stack.lanes));
    const std::int64_t blocks = (region.pixels + kBlock - 1) / kBlock;
    const int planes = job.stack.planes();
    Buffer<float> log_scores;
    if (!log_scores.resize(static_cast<std::size_t>(blocks * kBlock * planes))) throw std::bad_alloc();
    if (!kernels().load_scores(scores.data(), planes, order, region.pixels, b.energies, log_scores.data)) return false;

    const auto spatial = spatial_lattice(region, order, settings.gaussian_sxy);
    const Colors colors{b.rgb + picture * 3 * n, nullptr, n};
    const auto bilateral = normalized(features_of(order, region.pixels, settings.bilateral_sxy, colors,
                                                  settings.bilateral_srgb, b.filled));
    job.spatial = spatial.get();
    job.spatial_compat = settings.gaussian_compat;
    job.bilateral = bilateral.get();
    job.bilateral_compat = settings.bilateral_compat;
    job.iterations = settings.iterations;
    job.log_scores = log_scores.data;
    job.marginals = marginals.data();
    job.order = order;
    require(kernels().mean_field(job, crew));
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

void* take_memory(std::size_t bytes) {
    try {
        return bytes < kHuge ? allocate(bytes) : memory.take(bytes);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void give_memory(void* p, std::size_t bytes) {
    if (p == nullptr) return;
    if (bytes < kHuge) return release(p);
    try {
        memory.give(p);
    } catch (const std::bad_alloc&) {  // no room in the list: the piece stays lent, which is all that is lost
    }
}

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
    Features f;
    f.dims = dims, f.pixels = pixels, f.values = features;
    auto lattice = std::make_shared<Lattice>();
    const Status status = kernels().build(*lattice, f);
    if (status == Status::too_fine) return nullptr;
    require(status);
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
        Colors colors;
        if (batch.rgb != nullptr) colors.bytes = batch.rgb + i * 3 * n;
        else colors.floats = batch.float_rgb + i * 3 * n;
        colors.plane = n;
        const auto lattice =
            built(features_of(order_of(region, batch.width, kNoStrips), n, sigma_xy, colors, sigma_rgb, batch.filled));
        const std::int64_t at = i * batch.channels * n;
        require(kernels().filter(*lattice, batch.values + at, batch.out + at, static_cast<int>(batch.channels), transpose, crew));
    });
}

void labels(const LabelJob& job, int threads) {
    const Team team(job.height * job.width < kSharedPixels ? 1 : threads);
    require(kernels().labels(job, team.crew()));
}

void clear_cache() {
    {
        const std::lock_guard<std::mutex> lock(cache_mutex);
        cache.clear();
    }
    memory.clear();
}

std::size_t cache_size() {
    const std::lock_guard<std::mutex> lock(cache_mutex);
    return cache.size();
}

}  // namespace tag2mask
