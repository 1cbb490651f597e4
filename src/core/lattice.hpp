// Permutohedral lattice and mean field: data and the table of kernels.
//
// The kernels are compiled once per instruction set (kernels_*.cpp) and chosen at run time. They use
// no standard containers, so that no inline function compiled for a newer CPU is shared with the rest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define T2M_INLINE inline __attribute__((always_inline))

namespace tag2mask {

// Memory aligned to 64 bytes, null when there is none. Large pieces are kept for whoever asks next, see pictures.cpp.
void* take_memory(std::size_t bytes);
void give_memory(void* p, std::size_t bytes);

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
    T2M_INLINE Buffer& operator=(Buffer&& other) {  // exchanges the two
        T* const mine = data;
        const std::size_t count = size;
        data = other.data, size = other.size;
        other.data = mine, other.size = count;
        return *this;
    }
    T2M_INLINE ~Buffer() { give_memory(data, bytes_of(size)); }

    T2M_INLINE bool ok() const { return data != nullptr; }
    T2M_INLINE T& operator[](std::size_t i) { return data[i]; }
    T2M_INLINE const T& operator[](std::size_t i) const { return data[i]; }
    T2M_INLINE void zero() { std::memset(static_cast<void*>(data), 0, size * sizeof(T)); }

    T2M_INLINE static std::size_t bytes_of(std::size_t count) { return (count * sizeof(T) + 127) / 64 * 64; }
    // Keeps what was there; new elements are undefined.
    T2M_INLINE bool resize(std::size_t count) {
        T* const next = static_cast<T*>(take_memory(bytes_of(count)));
        if (next != nullptr && data != nullptr) {
            std::memcpy(static_cast<void*>(next), data, (size < count ? size : count) * sizeof(T));
        }
        give_memory(data, bytes_of(size));
        data = next;
        size = next != nullptr ? count : 0;
        return next != nullptr;
    }
};

constexpr int kMaxDims = 8;
constexpr int kLanes = 8;
constexpr std::int32_t kBegins = INT32_MIN;  // the bit that marks the first vertex of a chain
constexpr int kLinksAhead = 8;               // a vertex is asked for so many links before its turn

T2M_INLINE constexpr int corner_stride(int dims) { return (dims + 4) / 4 * 4; }

// Pixels -> simplices -> vertices, which count from 1. Vertex 0 is the one that ends every chain; it holds 0.
struct Lattice {
    int dims = 0;
    std::int64_t pixels = 0;
    std::int32_t vertices = 0;
    Buffer<std::int32_t> cell;        // [pixels] simplex of a pixel
    Buffer<std::int32_t> corners;     // [simplices][corner_stride(dims)] vertex ids times the bytes of a float
    Buffer<float> weights;            // [pixels][dims + 1] barycentric, or those times 1 / sqrt(K 1)
    // Chains of neighbours along each axis: the vertices of one after the other, the first marked by kBegins, those
    // without any neighbour left out. Every axis ends with kBegins alone, the last with kLinksAhead more of them.
    Buffer<std::int32_t> links;
    std::int64_t first_link[kMaxDims + 2] = {};  // of every axis, and the end of the last

    T2M_INLINE float slice_scale() const { return 1.0f / (1.0f + 1.0f / static_cast<float>(1 << dims)); }
};

enum class Status { ok, out_of_memory, not_finite, too_fine };

// Which pixels of planes [..][stride] take part, and in which order: those of `index`, or a box, in strips of `columns`
// columns, each row by row from top to bottom.
struct Order {
    const std::int64_t* index = nullptr;
    std::int64_t stride = 1;
    std::int64_t top = 0, left = 0, height = 1, width = 1;  // bounding box; x and y count from its corner
    std::int64_t columns = 1;
};

// Goes through an order from pixel `p` on.
class Walk {
public:
    T2M_INLINE Walk(const Order& order, std::int64_t p) : order_(order), index_(order.index) {
        if (index_ != nullptr) {
            index_ += p;
            return;
        }
        first_ = p / (order.columns * order.height) * order.columns;
        p -= first_ * order.height;
        fit();
        y_ = p / wide_, x_ = p % wide_;
    }
    // Where the next `count` pixels are. True: side by side in a row, and only at[0] is set.
    T2M_INLINE bool next(int count, std::int64_t* at) {
        if (index_ != nullptr) {
            for (int i = 0; i < count; ++i) at[i] = index_[i];
            index_ += count;
            return false;
        }
        at[0] = here();
        const bool together = x_ + count <= wide_;
        if (together) {
            x_ += count - 1;
            step();
        } else {
            for (int i = 0; i < count; ++i, step()) at[i] = here();
        }
        return together;
    }

private:
    T2M_INLINE std::int64_t here() const { return (order_.top + y_) * order_.stride + order_.left + first_ + x_; }
    T2M_INLINE void fit() {
        const std::int64_t rest = order_.width - first_;
        wide_ = order_.columns < rest ? order_.columns : rest;
    }
    T2M_INLINE void step() {
        if (++x_ < wide_) return;
        x_ = 0;
        if (++y_ < order_.height) return;
        y_ = 0, first_ += order_.columns;
        fit();
    }
    const Order& order_;
    const std::int64_t* index_;
    std::int64_t x_ = 0, y_ = 0, first_ = 0, wide_ = 0;  // the strip begins at column first_
};

// The colors of a picture [3][plane], as bytes or as floats; neither where place alone counts.
struct Colors {
    const std::uint8_t* bytes = nullptr;
    const float* floats = nullptr;
    std::int64_t plane = 0;  // pixels of the whole picture

    T2M_INLINE bool any() const { return bytes != nullptr || floats != nullptr; }
};

// What a lattice is built of: features [dims][pixels], or a picture with x / sigma_xy, y / sigma_xy of its pixels and,
// where it has colors, r / sigma_rgb, g / sigma_rgb, b / sigma_rgb.
struct Features {
    int dims = 0;
    std::int64_t pixels = 0;
    const float* values = nullptr;  // null: a picture
    Colors colors;
    Order order;
    float sigma_xy = 1, sigma_rgb = 1;
    bool with_origin = false;  // also the vertices around a pixel whose features are all 0 and which holds no value
};

constexpr int kBlock = 16;  // pixels that go through the mean field together

// The lanes of a pixel are its labels, run after run, then zeros.
struct Stack {
    int runs = 0;
    int labels = 0;
    int lanes = 0;  // 4, or a multiple of 8

    T2M_INLINE int planes() const { return runs * labels; }
};

struct MeanField {
    const Lattice* spatial = nullptr;  // normalized
    const Lattice* bilateral = nullptr;
    float spatial_compat = 0;
    float bilateral_compat = 0;
    int iterations = 0;
    Stack stack;
    const float* log_scores = nullptr;  // [blocks][runs * labels][kBlock]
    float* const* marginals = nullptr;  // planes [runs * labels]
    Order order;
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

// Logits of a picture [labels][height][width] as the network gives them, at one scale, mirrored back if need be.
struct ScoreMap {
    const float* logits = nullptr;
    std::int64_t height = 0, width = 0;
};

// The most probable label of each pixel by the mean over the maps.
struct LabelJob {
    const ScoreMap* maps = nullptr;
    int count = 0;
    int labels = 0;
    const std::uint8_t* allowed = nullptr;  // [labels] which may occur, the first among them; null: all
    std::int64_t height = 0, width = 0;
    std::uint8_t* out = nullptr;
};

struct Kernels {
    const char* name;
    Status (*build)(Lattice& out, const Features& features);
    // weights times 1 / sqrt(K 1 + 1e-20)
    Status (*normalize)(Lattice& lattice);
    // in and out [channels][pixels]
    Status (*filter)(const Lattice& lattice, const float* in, float* out, int channels, bool transpose,
                     const Crew& crew);
    // planes [count] to log(clip(score, 1e-5, 1)), or of energies to -energy, as in MeanField; false when one is NaN
    bool (*load_scores)(const float* const* planes, int count, const Order& order, std::int64_t pixels, bool energies,
                        float* out);
    Status (*mean_field)(const MeanField& job, const Crew& crew);
    Status (*labels)(const LabelJob& job, const Crew& crew);
};

const Kernels& kernels_baseline();
#ifdef T2M_HAS_AVX2
const Kernels& kernels_avx2();
#endif
#ifdef T2M_HAS_AVX512
const Kernels& kernels_avx512();
#endif

}  // namespace tag2mask
