// What the workers of the mixed load share: the command line (SECONDS NUMBER), the deadline, random numbers, the report
// of a wrong result, and the atomics that tcc does not have.
// A worker does rounds until its time is over, prints how many, and exits with 0. The first wrong result is one line on
// standard error and exit code 1: what comes after it would be noise.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096UL

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

static const char *kind;
static int number;
static u64 deadline, seed;

static void wrong(const char *format, ...) {
  char line[512];
  va_list arguments;
  int n = snprintf(line, sizeof line, "SOAK WRONG %s[%d]: ", kind, number);
  va_start(arguments, format);
  n += vsnprintf(line + n, sizeof line - n - 1, format, arguments);
  va_end(arguments);
  if (n > (int)sizeof line - 2)
    n = sizeof line - 2;
  line[n] = '\n';
  write(2, line, n + 1);
  _exit(1);
}

// A system call or library call that has no reason to fail.
static long must(long result, const char *what) {
  if (result == -1)
    wrong("%s: %s", what, strerror(errno));
  return result;
}

static void *pages(u64 count, int protection) {
  void *p = mmap(0, count * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(p == MAP_FAILED ? -1 : 0, "mmap");
  return p;
}

static u64 now(void) {
  struct timespec t;
  must(clock_gettime(CLOCK_MONOTONIC, &t), "clock_gettime");
  return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static u64 mix(u64 x) {
  x ^= x >> 31, x *= 0x7fb5d329728ea185ULL;
  x ^= x >> 27, x *= 0x81dadef4bc2dd44dULL;
  return x ^ (x >> 33);
}
static u64 any(void) { return mix(seed += 0x9e3779b97f4a7c15ULL); }
static u64 below(u64 limit) { return any() % limit; }

static void begin(const char *name, int argc, char **argv) {
  kind = name;
  if (argc != 3)
    wrong("usage: %s SECONDS NUMBER", name);
  number = atoi(argv[2]);
  deadline = now() + atoi(argv[1]) * 1000000000ULL;
  seed = now() ^ mix(getpid());
}
static int is_time_left(void) { return now() < deadline; }
static int end(u64 rounds) {
  if (rounds == 0)
    wrong("not one round was finished");
  printf("%llu\n", (unsigned long long)rounds);
  return 0;
}

// The status of a child that must end with an exit code.
static void expect_exit(pid_t child, int code, const char *what) {
  int status;
  must(waitpid(child, &status, 0), "waitpid");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
    wrong("%s: status %#x instead of exit code %d", what, status, code);
}

static u64 fetch_add(volatile u64 *p, u64 n) {
  __asm__ volatile("lock; xaddq %0, %1" : "+r"(n), "+m"(*p) : : "memory");
  return n;
}
static u64 exchange(volatile u64 *p, u64 n) {
  __asm__ volatile("xchgq %0, %1" : "+r"(n), "+m"(*p) : : "memory");
  return n;
}
static int compare_exchange(volatile u64 *p, u64 old, u64 n) {
  u64 was;
  __asm__ volatile("lock; cmpxchgq %2, %1" : "=a"(was), "+m"(*p) : "r"(n), "0"(old) : "memory");
  return was == old;
}
static void fence(void) { __asm__ volatile("mfence" : : : "memory"); }
static void serialize(void) {
  u32 leaf = 0, count = 0;
  __asm__ volatile("cpuid" : "+a"(leaf), "+c"(count) : : "rbx", "rdx", "memory");
}
