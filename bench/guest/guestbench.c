// guestbench: small workloads of the processor and the operating system, to compare a guest with its host.
// Each does a fixed amount of work and gives a checksum, which has to be the same everywhere.
//
//   guestbench [--scale F] [--only NAME,NAME..] [--mark]   lines NAME value unit chk=HEX ms=.. cpu=.. ops=..
//   guestbench --time NAME FILE COMMAND..                  runs a program: NAME chk=HEX ms=.. cpu=..; chk is that of
//                                                          the FILE it wrote, or of its output if FILE is "-"
//
// Values are time for one operation by the guest's clock, cpu is CPU time. --mark prints "> NAME" and "<" around the timed part, so
// that a host can time it by its own.
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
#define KEEP(x) __asm__ volatile("" : : "r"(x) : "memory")
typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

static double scale = 1, began, ended, cpu_began, cpu_ended;
static int mark;
static const char *cur;
static char *self;
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}
static pid_t peer; // a child that works meanwhile and is not waited for before the end
static double cpu(void) {
  struct rusage own, children;
  struct timespec t = {0};
  clockid_t clock;
  getrusage(RUSAGE_SELF, &own);
  getrusage(RUSAGE_CHILDREN, &children);
  if (peer && !clock_getcpuclockid(peer, &clock)) clock_gettime(clock, &t);
  return own.ru_utime.tv_sec + own.ru_stime.tv_sec + children.ru_utime.tv_sec + children.ru_stime.tv_sec + t.tv_sec +
         (own.ru_utime.tv_usec + own.ru_stime.tv_usec + children.ru_utime.tv_usec + children.ru_stime.tv_usec) * 1e-6 +
         t.tv_nsec * 1e-9;
}
static void start(void) {
  cpu_began = cpu();
  if (mark) {
    printf("> %s\n", cur);
    fflush(stdout);
    tcdrain(1);
  }
  began = now();
}
static void stop(void) {
  ended = now();
  if (mark) puts("<");
  cpu_ended = cpu();
}
static long N(double n) {
  long v = (long)(n * scale);
  return v < 1 ? 1 : v;
}
static u64 seed;
static u32 rnd(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (u32)(seed >> 16);
}
static void die(const char *m) {
  perror(m);
  exit(1);
}

// ---- integer -------------------------------------------------------------
static double int_alu(u64 *c) { // xorshift + multiply/rotate mix, 32 and 64 bit
  long n = N(15e6);
  u64 x = 88172645463325252ull;
  u32 h = 2166136261u;
  start();
  for (long i = 0; i < n; i++) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    h = (h ^ (u32)x) * 16777619u;
    h = (h << 13) | (h >> 19);
    h += (u32)i & 0xff;
  }
  stop();
  *c = x ^ h;
  return n;
}
static void qs(int *a, long lo, long hi) {
  while (lo < hi) {
    int p = a[(lo + hi) / 2];
    long i = lo, j = hi;
    while (i <= j) {
      while (a[i] < p) i++;
      while (a[j] > p) j--;
      if (i <= j) {
        int t = a[i];
        a[i++] = a[j];
        a[j--] = t;
      }
    }
    if (j - lo < hi - i) {
      qs(a, lo, j);
      lo = i;
    } else {
      qs(a, i, hi);
      hi = j;
    }
  }
}
static double quicksort(u64 *c) {
  long n = N(1e6);
  int *a = malloc(n * sizeof *a);
  for (long i = 0; i < n; i++) a[i] = (int)rnd();
  start();
  qs(a, 0, n - 1);
  stop();
  u64 h = 0;
  for (long i = 0; i < n; i++) {
    h = h * 31 + (u32)a[i];
    if (i && a[i - 1] > a[i]) *c = 1;
  }
  *c = h;
  free(a);
  return n;
}
static double chase(u64 *c, long bytes, double steps) { // one node a cache line, random cycle
  long n = bytes / 64, k = N(steps);
  u32 *a = malloc(bytes), *p = malloc(n * 4);
  for (long i = 0; i < n; i++) p[i] = i;
  for (long i = n - 1; i > 0; i--) {
    long j = rnd() % i;
    u32 t = p[i];
    p[i] = p[j];
    p[j] = t;
  } // Sattolo
  for (long i = 0; i < n; i++) a[i * 16] = p[i] * 16;
  u32 x = 0;
  start();
  for (long i = 0; i < k; i++) x = a[x];
  stop();
  *c = x;
  free(a);
  free(p);
  return k;
}
static double chase_256k(u64 *c) { return chase(c, 256 << 10, 10e6); }
static double chase_32m(u64 *c) { return chase(c, 32 << 20, 400e3); }
static double div64(u64 *c) {
  long n = N(8e6);
  u64 s = 0, a = ~0ull;
  volatile u64 d0 = 1000003;
  u64 d = d0;
  start();
  for (long i = 0; i < n; i++) {
    s += a / d + a % (d + 7);
    a -= 0x123456789abull;
    d += 2;
  }
  stop();
  *c = s;
  return n;
}
static double atomic_add(u64 *c) {
  long n = N(5e6);
  static u32 v;
  v = 0;
  start();
  for (long i = 0; i < n; i++) __atomic_fetch_add(&v, (u32)i, __ATOMIC_SEQ_CST);
  stop();
  *c = v;
  return n;
}

// ---- memory and strings --------------------------------------------------
static u8 *buf(long n) {
  u8 *p = malloc(n + 64);
  for (long i = 0; i < n; i++) p[i] = (u8)(1 + rnd() % 255);
  return p;
}
static double memcpy_1m(u64 *c) {
  long n = N(1000);
  u8 *a = buf(1 << 20), *b = buf(1 << 20);
  start();
  for (long i = 0; i < n; i++) {
    memcpy(b, a, 1 << 20);
    KEEP(b);
  }
  stop();
  *c = b[12345];
  free(a);
  free(b);
  return n;
}
static double memset_1m(u64 *c) {
  long n = N(1500);
  u8 *b = buf(1 << 20);
  start();
  for (long i = 0; i < n; i++) {
    memset(b, (int)i, 1 << 20);
    KEEP(b);
  }
  stop();
  *c = b[12345];
  free(b);
  return n;
}
static double rep_movs(u64 *c) { // 256-byte "rep movsl/q" blocks, as kernels do
  long n = N(2e6);
  u8 *a = buf(4096), *b = buf(4096);
  start();
  for (long i = 0; i < n; i++) {
    void *d = b + (i & 7) * 256, *s = a + (i & 3) * 256;
    long k = 64;
    __asm__ volatile("cld; rep movsl" : "+D"(d), "+S"(s), "+c"(k) : : "memory");
  }
  stop();
  *c = b[777];
  free(a);
  free(b);
  return n;
}
static double string_ops(u64 *c) { // strlen, memchr, strcmp of libc, short and long
  long n = N(200e3);
  char *s = (char *)buf(4096), *t = malloc(4200);
  u64 h = 0;
  for (int i = 0; i < 4096; i++)
    if (s[i] == '#') s[i] = '.';
  s[4000] = '#';
  s[4095] = 0;
  memcpy(t, s, 4096);
  start();
  for (long i = 0; i < n; i++) {
    long o = i & 63, e = 3000 + o;
    char k = s[e];
    s[e] = 0;
    KEEP(s);
    h += strlen(s + o);
    s[e] = k;
    KEEP(s);
    h += (char *)memchr(s, '#', 4096) - s;
    h += (u64)(strcmp(s + o, t + o) == 0);
    for (int j = 0; j < 4; j++) {
      h += strnlen(s + o + j * 9, 9 + j);
      KEEP(s);
    }
  }
  stop();
  *c = h;
  free(s);
  free(t);
  return n;
}
static u32 crct[256];
static double crc32t(u64 *c) {
  for (u32 i = 0; i < 256; i++) {
    u32 r = i;
    for (int k = 0; k < 8; k++) r = r & 1 ? 0xedb88320u ^ r >> 1 : r >> 1;
    crct[i] = r;
  }
  long n = N(20);
  u8 *a = buf(1 << 20);
  u32 r = ~0u;
  start();
  for (long i = 0; i < n; i++)
    for (long j = 0; j < 1 << 20; j++) r = crct[(u8)(r ^ a[j])] ^ r >> 8;
  stop();
  *c = r;
  free(a);
  return n;
}
static const u32 K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
#define R(x, n) ((x) >> (n) | (x) << (32 - (n)))
static void sha_block(u32 *s, const u8 *p) {
  u32 w[64], v[8];
  for (int i = 0; i < 16; i++) w[i] = (u32)p[i * 4] << 24 | p[i * 4 + 1] << 16 | p[i * 4 + 2] << 8 | p[i * 4 + 3];
  for (int i = 16; i < 64; i++)
    w[i] = w[i - 16] + w[i - 7] + (R(w[i - 15], 7) ^ R(w[i - 15], 18) ^ w[i - 15] >> 3) +
           (R(w[i - 2], 17) ^ R(w[i - 2], 19) ^ w[i - 2] >> 10);
  memcpy(v, s, 32);
  for (int i = 0; i < 64; i++) {
    u32 t1 = v[7] + (R(v[4], 6) ^ R(v[4], 11) ^ R(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + K[i] + w[i];
    u32 t2 = (R(v[0], 2) ^ R(v[0], 13) ^ R(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
    v[7] = v[6];
    v[6] = v[5];
    v[5] = v[4];
    v[4] = v[3] + t1;
    v[3] = v[2];
    v[2] = v[1];
    v[1] = v[0];
    v[0] = t1 + t2;
  }
  for (int i = 0; i < 8; i++) s[i] += v[i];
}
static double sha256(u64 *c) {
  u32 s[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  long n = N(12);
  u8 *a = buf(1 << 20);
  start();
  for (long i = 0; i < n; i++)
    for (long j = 0; j < 1 << 20; j += 64) sha_block(s, a + j);
  stop();
  *c = (u64)s[0] << 32 | s[1];
  free(a);
  return n;
}

// ---- floating point ------------------------------------------------------
static double matmul_f64(u64 *c) { // scalar, 160x160; unit: one multiply-add
  enum { M = 160 };
  long n = N(36);
  static double a[M][M], b[M][M], d[M][M];
  for (int i = 0; i < M; i++)
    for (int j = 0; j < M; j++) {
      a[i][j] = rnd() % 1000 / 8.0;
      b[i][j] = rnd() % 1000 / 16.0;
    }
  start();
  for (long r = 0; r < n; r++) {
    for (int i = 0; i < M; i++)
      for (int j = 0; j < M; j++) {
        double s = 0;
        for (int k = 0; k < M; k++) s += a[i][k] * b[k][j];
        d[i][j] = s;
      }
    KEEP(d);
  }
  stop();
  double t = 0;
  for (int i = 0; i < M; i++) t += d[i][i];
  memcpy(c, &t, 8);
  return (double)n * M * M * M;
}
#define SIMD_BODY                                                                                                      \
  {                                                                                                                    \
    for (int i = 0; i < 4096; i++) {                                                                                   \
      y[i] = (x[i] * k + y[i]) * 0.75f;                                                                                \
      x[i] = x[i] * 0.5f + k;                                                                                          \
    }                                                                                                                  \
  }
NOINLINE __attribute__((optimize("O3"), target("sse2"))) static void simd_a(float *__restrict x, float *__restrict y,
                                                                            float k) SIMD_BODY NOINLINE
    __attribute__((optimize("O3"), target("avx2"))) static void simd_b(float *__restrict x, float *__restrict y,
                                                                       float k) SIMD_BODY
    static double simd(u64 *c, void (*f)(float *, float *, float), double reps) { // unit: one element
  long n = N(reps);
  static float x[4096] __attribute__((aligned(64))), y[4096] __attribute__((aligned(64)));
  for (int i = 0; i < 4096; i++) {
    x[i] = i % 17;
    y[i] = i % 13;
  }
  start();
  for (long r = 0; r < n; r++) f(x, y, 0.25f);
  stop();
  u32 t;
  memcpy(&t, &y[99], 4);
  *c = t;
  return (double)n * 4096;
}
static double simd_sse2(u64 *c) { return simd(c, simd_a, 60e3); }
static double simd_avx2(u64 *c) { return __builtin_cpu_supports("avx2") ? simd(c, simd_b, 60e3) : 0; }
static double x87(u64 *c) {
  long n = N(4e6);
  long double x = 1.0L, s = 0;
  start();
  for (long i = 0; i < n; i++) {
    x = x * 1.0000001L + 0.5L / (x + 3.0L);
    if (x > 100) x = sqrtl(x);
    s += x;
  }
  stop();
  u64 h = 0;
  memcpy(&h, &s, 8);
  *c = h;
  return n;
}
static double libm(u64 *c) { // sin, exp, log, pow of libm
  long n = N(1e6);
  double s = 0;
  start();
  for (long i = 0; i < n; i++) {
    double t = i * 1e-3;
    s += sin(t) + exp(-t * 1e-3) + log(t + 1) + pow(t + 1, 0.3);
  }
  stop();
  *c = (u64)(s * 1e3);
  return n;
}

// ---- control flow --------------------------------------------------------
NOINLINE static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2) + 1; }
static double calls(u64 *c) {
  long n = N(100);
  start();
  u64 s = 0;
  for (long i = 0; i < n; i++) {
    s += fib(25);
    KEEP(s);
  }
  stop();
  *c = s;
  return n * 242785.0;
}
struct shape {
  int (*area)(struct shape *, int);
  int a, b;
};
NOINLINE static int v0(struct shape *s, int k) { return s->a + k; }
NOINLINE static int v1(struct shape *s, int k) { return s->a * s->b ^ k; }
NOINLINE static int v2(struct shape *s, int k) { return s->b - k; }
NOINLINE static int v3(struct shape *s, int k) { return (s->a >> 1) + (k << 1); }
static double virtual_calls(u64 *c) {
  static int (*f[4])(struct shape *, int) = {v0, v1, v2, v3};
  struct shape s[256];
  long n = N(40e3);
  u32 h = 0;
  for (int i = 0; i < 256; i++) s[i] = (struct shape){f[rnd() & 3], (int)rnd() & 0xffff, (int)rnd() & 0xfff};
  start();
  for (long r = 0; r < n; r++)
    for (int i = 0; i < 256; i++) h += s[i].area(&s[i], (int)h);
  stop();
  *c = h;
  return n * 256.0;
}
static double interp(u64 *c) { // switch-dispatched stack machine; unit: one bytecode
  enum { PUSH, ADD, MUL, XOR, DUP, SWAP, DEC, JNZ, AND, SHR, LOAD, STORE, END };
  static const int p[] = {LOAD, 0,     LOAD, 1,    MUL, PUSH,  12345, ADD, DUP,  PUSH,   7,   SHR,
                          XOR,  STORE, 0,    LOAD, 1,   PUSH,  3,     ADD, PUSH, 0xffff, AND, STORE,
                          1,    LOAD,  2,    DEC,  DUP, STORE, 2,     JNZ, 0,    END};
  long n = N(1.2e6), ops = 0;
  u32 st[16], m[3] = {1, 2, (u32)n};
  int sp = 0;
  const int *pc = p;
  start();
  for (;;) {
    ops++;
    switch (*pc++) {
    case PUSH: st[sp++] = *pc++; break;
    case ADD:
      sp--;
      st[sp - 1] += st[sp];
      break;
    case MUL:
      sp--;
      st[sp - 1] *= st[sp];
      break;
    case XOR:
      sp--;
      st[sp - 1] ^= st[sp];
      break;
    case AND:
      sp--;
      st[sp - 1] &= st[sp];
      break;
    case SHR:
      sp--;
      st[sp - 1] >>= st[sp];
      break;
    case DUP:
      st[sp] = st[sp - 1];
      sp++;
      break;
    case SWAP: {
      u32 t = st[sp - 1];
      st[sp - 1] = st[sp - 2];
      st[sp - 2] = t;
      break;
    }
    case DEC: st[sp - 1]--; break;
    case LOAD: st[sp++] = m[*pc++]; break;
    case STORE: m[*pc++] = st[--sp]; break;
    case JNZ: {
      int t = *pc++;
      if (st[--sp]) pc = p + t;
      break;
    }
    case END:
      stop();
      *c = m[0] ^ (u64)m[1] << 32;
      return ops;
    }
  }
}
static u8 *code(long n) {
  u8 *p = mmap(0, n, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) die("mmap rwx");
  return p;
}
static double smc_patch(u64 *c) { // patch an immediate, call, repeat
  long n = N(30e3);
  u8 *p = code(4096);
  u64 s = 0;
  p[0] = 0xb8;
  p[5] = 0xc3; // mov eax, imm; ret
  start();
  for (u32 i = 0; i < (u32)n; i++) {
    memcpy(p + 1, &i, 4);
    KEEP(p);
    s += ((u32(*)(void))p)();
  }
  stop();
  *c = s;
  munmap(p, 4096);
  return n;
}
static double jit_gen(u64 *c) { // emit 400 adds to fresh code, run it 20 times, repeat
  long n = N(4000);
  u8 *p = code(65536);
  u64 s = 0;
  start();
  for (long i = 0; i < n; i++) {
    u8 *q = p + (i & 15) * 4096, *f = q;
    *q++ = 0x31;
    *q++ = 0xc0; // xor eax, eax
    for (u32 j = 0; j < 400; j++) {
      u32 v = (u32)i * j;
      *q++ = 0x05;
      memcpy(q, &v, 4);
      q += 4;
    } // add eax, v
    *q = 0xc3;
    KEEP(p);
    for (int k = 0; k < 20; k++) s += ((u32(*)(void))f)();
  }
  stop();
  *c = s;
  munmap(p, 65536);
  return n;
}

// ---- operating system ----------------------------------------------------
static double clock_read(u64 *c) {
  long n = N(200e3);
  start();
  for (long i = 0; i < n; i++) KEEP((long)now());
  stop();
  *c = 0;
  return n;
}
static double syscall_getppid(u64 *c) {
  long n = N(300e3);
  start();
  for (long i = 0; i < n; i++) syscall(SYS_getppid);
  stop();
  *c = 0;
  return n;
}
static double pipe_pingpong(u64 *c) { // two processes; two switches a round trip
  long n = N(8e3);
  int a[2], b[2];
  char x = 1;
  if (pipe(a) || pipe(b)) die("pipe");
  fflush(stdout);
  pid_t k = fork();
  if (!k) {
    close(a[1]);
    while (read(a[0], &x, 1) == 1) {
      x++;
      if (write(b[1], &x, 1) != 1) break;
    }
    _exit(0);
  }
  peer = k;
  start();
  for (long i = 0; i < n; i++) {
    if (write(a[1], &x, 1) != 1 || read(b[0], &x, 1) != 1) die("pingpong");
  }
  stop();
  peer = 0;
  *c = (u8)x;
  close(a[1]);
  waitpid(k, 0, 0);
  close(a[0]);
  close(b[0]);
  close(b[1]);
  return n;
}
static pthread_mutex_t mx = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cv = PTHREAD_COND_INITIALIZER;
static long turn, turns;
static void *player(void *arg) {
  for (;;) {
    pthread_mutex_lock(&mx);
    while (turn < turns && (turn & 1) != (long)arg) pthread_cond_wait(&cv, &mx);
    if (turn >= turns) {
      pthread_cond_broadcast(&cv);
      pthread_mutex_unlock(&mx);
      return 0;
    }
    turn++;
    pthread_cond_signal(&cv);
    pthread_mutex_unlock(&mx);
  }
}
static double ctx_switch(u64 *c) { // two threads taking turns (futex)
  turns = N(10e3);
  turn = 0;
  pthread_t t;
  start();
  pthread_create(&t, 0, player, (void *)1L);
  player(0);
  pthread_join(t, 0);
  stop();
  *c = turn;
  return turns;
}
static double fork_wait(u64 *c) {
  long n = N(500);
  int st = 0;
  u64 s = 0;
  fflush(stdout);
  start();
  for (long i = 0; i < n; i++) {
    pid_t k = fork();
    if (!k) _exit((int)i & 7);
    if (waitpid(k, &st, 0) != k) die("wait");
    s += WEXITSTATUS(st);
  }
  stop();
  *c = s;
  return n;
}
static double fork_exec(u64 *c) {
  long n = N(200);
  int st = 0;
  u64 s = 0;
  fflush(stdout);
  start();
  for (long i = 0; i < n; i++) {
    pid_t k = fork();
    if (!k) {
      execl(self, self, "--exit", "7", (char *)0);
      _exit(127);
    }
    if (waitpid(k, &st, 0) != k) die("wait");
    s += WEXITSTATUS(st);
  }
  stop();
  *c = s;
  return n;
}
static double mmap_touch(u64 *c) { // unit: one page fault (4 MiB mapped, touched, unmapped)
  long n = N(60);
  u64 s = 0;
  start();
  for (long i = 0; i < n; i++) {
    u8 *p = mmap(0, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    madvise(p, 4 << 20, MADV_NOHUGEPAGE);
    for (long j = 0; j < 4 << 20; j += 4096) {
      p[j] = (u8)i;
      s += p[j];
    }
    munmap(p, 4 << 20);
  }
  stop();
  *c = s;
  return n * 1024.0;
}
static double file_tmpfs(u64 *c) { // create, write 4 KiB, stat via lseek, unlink
  long n = N(6e3);
  u8 *b = buf(4096);
  char f[40];
  u64 s = 0;
  start();
  for (long i = 0; i < n; i++) {
    snprintf(f, sizeof f, "/tmp/gb%ld", i & 63);
    int d = open(f, O_CREAT | O_RDWR | O_TRUNC, 0600);
    if (d < 0 || write(d, b, 4096) != 4096) die(f);
    s += lseek(d, 0, SEEK_END);
    close(d);
    unlink(f);
  }
  stop();
  *c = s;
  free(b);
  return n;
}

static struct {
  const char *name, *unit;
  double (*f)(u64 *);
} W[] = {
    {"int_alu", "ns/iter", int_alu},
    {"quicksort", "ns/elem", quicksort},
    {"chase_256k", "ns/step", chase_256k},
    {"chase_32m", "ns/step", chase_32m},
    {"div64", "ns/iter", div64},
    {"atomic_add", "ns/iter", atomic_add},
    {"memcpy_1m", "ns/MiB", memcpy_1m},
    {"memset_1m", "ns/MiB", memset_1m},
    {"rep_movs", "ns/256B", rep_movs},
    {"string_ops", "ns/iter", string_ops},
    {"crc32", "ns/MiB", crc32t},
    {"sha256", "ns/MiB", sha256},
    {"matmul_f64", "ns/fma", matmul_f64},
    {"simd_sse2", "ns/elem", simd_sse2},
    {"simd_avx2", "ns/elem", simd_avx2},
    {"x87", "ns/iter", x87},
    {"libm", "ns/iter", libm},
    {"calls", "ns/call", calls},
    {"virtual_calls", "ns/call", virtual_calls},
    {"interp", "ns/bytecode", interp},
    {"smc_patch", "ns/iter", smc_patch},
    {"jit_gen", "ns/2KB", jit_gen},
    {"clock_read", "ns/call", clock_read},
    {"syscall_getppid", "ns/call", syscall_getppid},
    {"pipe_pingpong", "ns/trip", pipe_pingpong},
    {"ctx_switch", "ns/switch", ctx_switch},
    {"fork_wait", "ns/fork", fork_wait},
    {"fork_exec", "ns/exec", fork_exec},
    {"mmap_touch", "ns/page", mmap_touch},
    {"file_tmpfs", "ns/file", file_tmpfs},
};

// FNV-1a of a file, so that what a program wrote can be compared.
static u64 checksum(const char *path) {
  static u8 b[65536];
  u64 h = 0xcbf29ce484222325ull;
  ssize_t n;
  int d = open(path, O_RDONLY);
  if (d < 0) return 0;
  while ((n = read(d, b, sizeof b)) > 0)
    for (ssize_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3ull;
  close(d);
  return h;
}
static int timed(const char *name, const char *result, char **cmd) {
  int st;
  const char *out = "/tmp/stdout";
  cur = name;
  mark = 1;
  fflush(stdout);
  start();
  pid_t k = fork();
  if (!k) {
    int z = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(z, 1);
    execvp(cmd[0], cmd);
    _exit(127);
  }
  waitpid(k, &st, 0);
  stop();
  if (!WIFEXITED(st) || WEXITSTATUS(st)) {
    printf("%s failed with wait status %x\n", name, st);
    return 1;
  }
  printf("%s chk=%llx ms=%.2f cpu=%.2f\n", name, (unsigned long long)checksum(strcmp(result, "-") ? result : out),
         (ended - began) * 1e3, (cpu_ended - cpu_began) * 1e3);
  return 0;
}
int main(int argc, char **argv) {
  char *only = 0;
  self = "/proc/self/exe";
  setvbuf(stdout, 0, _IOLBF, 0);
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--scale") && i + 1 < argc)
      scale = atof(argv[++i]);
    else if (!strcmp(argv[i], "--only") && i + 1 < argc)
      only = argv[++i];
    else if (!strcmp(argv[i], "--mark"))
      mark = 1;
    else if (!strcmp(argv[i], "--exit") && i + 1 < argc)
      _exit(atoi(argv[i + 1]));
    else if (!strcmp(argv[i], "--time") && i + 3 < argc)
      return timed(argv[i + 1], argv[i + 2], argv + i + 3);
    else {
      fprintf(stderr, "usage: see the head of guestbench.c\n");
      return 2;
    }
  }
  for (unsigned i = 0; i < sizeof W / sizeof *W; i++) {
    if (only) {
      char l[1024], n[40];
      snprintf(l, sizeof l, ",%s,", only);
      snprintf(n, sizeof n, ",%s,", W[i].name);
      if (!strstr(l, n)) continue;
    }
    u64 c = 0;
    seed = 0x9e3779b97f4a7c15ull;
    cur = W[i].name;
    double ops = W[i].f(&c);
    if (ops > 0)
      printf("%s %.3f %s chk=%llx ms=%.2f cpu=%.2f ops=%.0f\n", W[i].name, (ended - began) * 1e9 / ops, W[i].unit,
             (unsigned long long)c, (ended - began) * 1e3, (cpu_ended - cpu_began) * 1e3, ops);
    else
      printf("%s n/a\n", W[i].name);
  }
  return 0;
}
