/* How functions are made for the processor that they run on. */
#ifndef CKPTAUDIT_PROCESSOR_H
#define CKPTAUDIT_PROCESSOR_H

/* One body for each generation of processors, chosen when the library is loaded. */
#if defined(__x86_64__) && !defined(ONE_TARGET)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* Inlined, or a function's body for one processor would call that of another. */
#define INLINE static inline __attribute__((always_inline))

#endif
