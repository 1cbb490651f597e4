#define T2M_ISA avx2
#include "kernels.inl"
