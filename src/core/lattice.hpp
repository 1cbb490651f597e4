// Permutohedral lattice and mean field: data and the table of kernels.
//
// The kernels are compiled once per instruction set (kernels_*.cpp) and chosen at run time. They use
// no standard containers, so that no inline function compiled for a newer CPU is shared with the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#ifdef _WIN32
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#define T2M_INLINE inline __attribute__((always_inline))

namespace tag2mask {

// Aligned array of plain values. Fails with a null `data`, which `ok()` reports.
template <class T>
struct Buffer {
    T* data = nullptr;
    std::size_t size = 0;

    T2M_INLINE Buffer() {}
    T2M_INLINE explicit Buffer(std::size_t count) { resize(count); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T2M_INLINE Buffer(Buffer&& other) : data(other.data), size(other.size) { other.data = nullptr; other.size = 0; }
    T2M_INLINE Buffer& operator=(Buffer&& other) {
        T* const mine = data;
        const std::size_t count = size;
        data = other.data, size = other.size;
        other.data = mine, other.size = count;
        return *this;
    }
    T2M_INLINE ~Buffer() { release(data); }

    T2M_INLINE bool ok() const { return data != nullptr; }
    T2M_INLINE T& operator[](std::size_t i) { return data[i]; }
    T2M_INLINE const T& operator[](std::size_t i) const { return data[i]; }
    T2M_INLINE void zero() { std::memset(static_cast<void*>(data), 0, size * sizeof(T)); }

#ifdef _WIN32
    T2M_INLINE static void* allocate(std::size_t bytes) { return _aligned_malloc(bytes, 64); }
    T2M_INLINE static void release(void* p) { _aligned_free(p); }
#else
    T2M_INLINE static void* allocate(std::size_t bytes) {
#ifdef __linux__
        // Large arrays on huge pages: they are read all over, and a small page costs a fault and a look-up each.
        constexpr std::size_t huge = std::size_t{1} << 21;
        if (bytes >= huge) {
            const std::size_t whole = (bytes + huge - 1) / huge * huge;
            void* const p = std::aligned_alloc(huge, whole);
            if (p != nullptr) madvise(p, whole, MADV_HUGEPAGE);
            return p;
        }
#endif
        return std::aligned_alloc(64, bytes);
    }
    T2M_INLINE static void release(void* p) { std::free(p); }
#endif

    // Keeps what was there; new elements are undefined.
    T2M_INLINE bool resize(std::size_t count) {
        const std::size_t bytes = (count * sizeof(T) + 127) / 64 * 64;
        T* const next = static_cast<T*>(allocate(bytes));
        if (next != nullptr && data != nullptr) {
            std::memcpy(static_cast<void*>(next), data, (size < count ? size : count) * sizeof(T));
        }
        release(data);
        data = next;
        size = next != nullptr ? count : 0;
        return next != nullptr;
    }
};

constexpr int kMaxDims = 8;
constexpr int kLanes = 8;

// Pixels -> simplices -> vertices. Vertex 0 stands for every missing vertex and always holds 0.
struct Lattice {
    int dims = 0;
    std::int64_t pixels = 0;
    std::int32_t vertices = 0;
    int corner_stride = 0;            // dims + 1 rounded up to 4
    Buffer<std::int32_t> cell;        // [pixels] simplex of a pixel
    Buffer<std::int32_t> corners;     // [simplices][corner_stride] vertex ids
    Buffer<float> weights;            // [pixels][dims + 1] barycentric
    Buffer<std::int32_t> neighbours;  // [dims + 1][vertices + 1][2]

    T2M_INLINE float slice_scale() const { return 1.0f / (1.0f + 1.0f / static_cast<float>(1 << dims)); }
};

enum class Status { ok, out_of_memory, not_finite, too_fine };

// Channels of the mean field: every run is padded to `run_lanes`, all runs of a pixel lie together.
struct Stack {
    int runs = 0;
    int labels = 0;
    int run_lanes = 0;  // 4, or a multiple of 8
    int lanes = 0;      // of a pixel: 4, or a multiple of 8
};

struct MeanField {
    const Lattice* spatial = nullptr;
    const float* spatial_weights = nullptr;  // barycentric weights times n = 1 / sqrt(K 1)
    const Lattice* bilateral = nullptr;
    const float* bilateral_weights = nullptr;
    float spatial_compat = 0;
    float bilateral_compat = 0;
    int iterations = 0;
    Stack stack;
};

// A picture with fewer pixels is not worth the threads.
constexpr std::int64_t kSharedPixels = 1 << 16;

// Threads that share the work on one picture. `run` calls work(context, 0 .. parts - 1), each once, and returns when
// all are done; null runs them one after the other.
struct Crew {
    int size = 1;
    void* self = nullptr;
    void (*run)(void* self, int parts, void (*work)(const void* context, int part), const void* context) = nullptr;
};

struct Kernels {
    const char* name;
    // features [dims][pixels]
    Status (*build)(Lattice& out, const float* features, int dims, std::int64_t pixels);
    // out = barycentric weights times 1 / sqrt(K 1 + 1e-20)
    Status (*normalized_weights)(const Lattice& lattice, float* out);
    // in and out [channels][pixels]
    Status (*filter)(const Lattice& lattice, const float* in, float* out, int channels, bool transpose,
                     const Crew& crew);
    // planes [runs * labels] -> pixel-major log(clip(score, 1e-5, 1)); false when a score is NaN
    bool (*load_scores)(const float* const* planes, const std::int64_t* index, std::int64_t pixels, const Stack& stack,
                        float* out);
    // log_scores is overwritten with the marginals
    Status (*mean_field)(const MeanField& job, float* log_scores, const Crew& crew);
};

const Kernels& kernels_baseline();
#ifdef T2M_HAS_AVX2
const Kernels& kernels_avx2();
#endif
#ifdef T2M_HAS_AVX512
const Kernels& kernels_avx512();
#endif

}  // namespace tag2mask
