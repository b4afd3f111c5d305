// Threads: mutexes, conditions, semaphores and barriers over futexes, locked instructions, and the order of memory
// accesses that x86 promises.
#include "soak.h"
#include <semaphore.h>

#define THREADS 4

static void start(pthread_t *threads, int n, void *(*work)(void *)) {
  int i;
  for (i = 0; i < n; i++)
    must(pthread_create(&threads[i], 0, work, (void *)(long)i) ? -1 : 0, "pthread_create");
}
static void join(pthread_t *threads, int n) {
  int i;
  for (i = 0; i < n; i++)
    must(pthread_join(threads[i], 0) ? -1 : 0, "pthread_join");
}
static void is(u64 value, u64 right, const char *what) {
  if (value != right)
    wrong("%s: %llu instead of %llu", what, (unsigned long long)value, (unsigned long long)right);
}

// ---- counters: under a mutex, by each kind of locked instruction, by cmpxchg16b

#define ADDITIONS 5000
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct { u64 plain, added, incremented, compared, bits[64], small; } counters;
static u64 *pair; // aligned to 16

static void add_to_pair(void) { // {n, m} becomes {n + 1, m - 1} at once
  u64 n = pair[0], m = pair[1];
  u8 done;
  do {
    u64 new_n = n + 1, new_m = m - 1;
    // rbx is spilled by hand: tcc does not know it as an operand. lock cmpxchg16b [rsi]
    __asm__ volatile("pushq %%rbx; movq %%rdi, %%rbx; .byte 0xf0, 0x48, 0x0f, 0xc7, 0x0e; popq %%rbx; setz %%dil"
                     : "+a"(n), "+d"(m), "+D"(new_n)
                     : "c"(new_m), "S"(pair)
                     : "memory");
    done = new_n;
  } while (!done);
}

static void *count(void *argument) {
  long me = (long)argument;
  int i;
  for (i = 0; i < ADDITIONS; i++) {
    u64 *bits = &counters.bits[i % 64];
    if (i % 8 == 0) {
      pthread_mutex_lock(&mutex);
      counters.plain++;
      pthread_mutex_unlock(&mutex);
    }
    fetch_add(&counters.added, i);
    __asm__ volatile("lock; incq %0" : "+m"(counters.incremented) : : "memory");
    __asm__ volatile("lock; incb %0" : "+m"(*(u8 *)&counters.small) : : "memory");
    __asm__ volatile("lock; btcq %1, %0" : "+m"(*bits) : "r"((u64)me * 16 + i / 64 % 16) : "memory");
    for (;;) {
      u64 old = counters.compared;
      if (compare_exchange(&counters.compared, old, old + 3))
        break;
    }
    add_to_pair();
  }
  return 0;
}
static void counting(void) {
  pthread_t threads[THREADS];
  u64 sum = 0, right[64];
  int i, t;
  memset(&counters, 0, sizeof counters);
  memset(right, 0, sizeof right);
  pair[0] = 0, pair[1] = 1000000;
  start(threads, THREADS, count);
  join(threads, THREADS);
  for (i = 0; i < ADDITIONS; i++)
    for (sum += i, t = 0; t < THREADS; t++)
      right[i % 64] ^= 1ULL << (t * 16 + i / 64 % 16);
  is(counters.plain, THREADS * ((ADDITIONS + 7) / 8), "a counter under a mutex");
  is(counters.added, THREADS * sum, "lock xadd");
  is(counters.incremented, THREADS * ADDITIONS, "lock inc");
  is(counters.small, THREADS * ADDITIONS & 255, "lock inc of a byte");
  is(counters.compared, THREADS * ADDITIONS * 3, "lock cmpxchg");
  is(pair[0], THREADS * ADDITIONS, "lock cmpxchg16b, low");
  is(pair[1], 1000000 - THREADS * ADDITIONS, "lock cmpxchg16b, high");
  if (memcmp(counters.bits, right, sizeof right))
    wrong("lock btc: wrong bits");
}

// ---- a queue with conditions, semaphores in a ring, a barrier

#define ITEMS 600
static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER, not_full = PTHREAD_COND_INITIALIZER;
static u64 queue[8], taken_sum;
static int put_at, held, produced, consumed;

static void *produce(void *argument) {
  for (;;) {
    pthread_mutex_lock(&mutex);
    while (held == 8)
      pthread_cond_wait(&not_full, &mutex);
    if (produced == ITEMS)
      return pthread_cond_broadcast(&not_full), pthread_mutex_unlock(&mutex), (void *)0;
    queue[(put_at + held++) % 8] = mix(produced++);
    pthread_cond_signal(&not_empty);
    pthread_mutex_unlock(&mutex);
  }
}
static void *consume(void *argument) {
  for (;;) {
    pthread_mutex_lock(&mutex);
    while (held == 0 && consumed < ITEMS)
      pthread_cond_wait(&not_empty, &mutex);
    if (consumed == ITEMS)
      return pthread_cond_broadcast(&not_empty), pthread_mutex_unlock(&mutex), (void *)0;
    taken_sum += queue[put_at], put_at = (put_at + 1) % 8, held--, consumed++;
    pthread_cond_broadcast(&not_full);
    if (consumed == ITEMS)
      pthread_cond_broadcast(&not_empty);
    pthread_mutex_unlock(&mutex);
  }
}
static void conditions(void) {
  pthread_t producers[2], consumers[2];
  u64 sum = 0;
  int i;
  put_at = held = produced = consumed = 0, taken_sum = 0;
  start(producers, 2, produce);
  start(consumers, 2, consume);
  join(producers, 2);
  join(consumers, 2);
  for (i = 0; i < ITEMS; i++)
    sum += mix(i);
  is(taken_sum, sum, "a queue with conditions");
}

static sem_t semaphores[THREADS];
static u64 token;
static void *pass(void *argument) {
  long me = (long)argument;
  int i;
  for (i = 0; i < 200; i++) {
    while (sem_wait(&semaphores[me]))
      ;
    if (token != i * THREADS + me)
      wrong("a ring of semaphores: token %llu in thread %ld, round %d", (unsigned long long)token, me, i);
    token++;
    sem_post(&semaphores[(me + 1) % THREADS]);
  }
  return 0;
}
static void ring(void) {
  pthread_t threads[THREADS];
  int i;
  token = 0;
  for (i = 0; i < THREADS; i++)
    sem_init(&semaphores[i], 0, i == 0);
  start(threads, THREADS, pass);
  join(threads, THREADS);
  is(token, THREADS * 200, "a ring of semaphores");
}

static pthread_barrier_t barrier;
static volatile u64 arrived;
static void *meet(void *argument) {
  int i;
  for (i = 1; i <= 50; i++) {
    fetch_add(&arrived, 1);
    pthread_barrier_wait(&barrier);
    is(arrived, THREADS * i, "threads at a barrier");
    pthread_barrier_wait(&barrier);
  }
  return 0;
}
static void barriers(void) {
  pthread_t threads[THREADS];
  arrived = 0;
  pthread_barrier_init(&barrier, 0, THREADS);
  start(threads, THREADS, meet);
  join(threads, THREADS);
  pthread_barrier_destroy(&barrier);
}

// ---- memory order: each thread in turn, many times, started together by a word both spin on

#define TRIALS 3000
static volatile struct { u64 x, gap1[15], y, gap2[15], go, gap3[15], saw_x, saw_y; } litmus;
static int is_locked; // a locked instruction instead of mfence

static void order(void) {
  if (is_locked)
    fetch_add((u64 *)&litmus.gap3[8], 0);
  else
    fence();
}
static void together(u64 trial) {
  int spins = 0;
  fetch_add(&litmus.go, 1);
  while (litmus.go < trial * 2)
    if (++spins % 64 == 0)
      sched_yield();
}
static void *store_buffering(void *argument) {
  u64 i, r;
  for (i = 1; i <= TRIALS; i++) {
    together(3 * i - 2);
    if (argument)
      litmus.x = i, order(), litmus.saw_y = litmus.y;
    else
      litmus.y = i, order(), litmus.saw_x = litmus.x;
    together(3 * i - 1);
    if (litmus.saw_x != i && litmus.saw_y != i)
      wrong("store buffering despite a fence: both read the old value in trial %llu", (unsigned long long)i);
    together(3 * i);
  }
  return 0;
}
static void *message_passing(void *argument) {
  u64 i, last = 0, x, y;
  for (i = 1; i <= TRIALS * 10; i++)
    if (argument)
      litmus.x = i, litmus.y = i;
    else {
      y = litmus.y, x = litmus.x;
      if (x < y || y < last)
        wrong("message passing: %llu, then %llu", (unsigned long long)y, (unsigned long long)x);
      last = y;
    }
  return 0;
}
// A store that crosses a cache line without a lock promises nothing, one within it is seen whole.
static void *whole_stores(void *argument) {
  u64 i, v;
  for (i = 1; i <= TRIALS * 10; i++)
    if (argument)
      litmus.x = i * 0x0000000100000001ULL;
    else if ((v = litmus.x, (u32)v != v >> 32))
      wrong("a torn store: %llx", (unsigned long long)v);
  return 0;
}
static void test_order(void *(*work)(void *)) {
  pthread_t threads[2];
  memset((void *)&litmus, 0, sizeof litmus);
  start(threads, 2, work);
  join(threads, 2);
}

int main(int argc, char **argv) {
  u64 rounds = 0;
  begin("threads", argc, argv);
  pair = (u64 *)pages(1, PROT_READ | PROT_WRITE);
  for (; is_time_left(); rounds++)
    switch (rounds % 7) {
    case 0: counting(); break;
    case 1: conditions(); break;
    case 2: ring(); break;
    case 3: barriers(); break;
    case 4: is_locked = below(2), test_order(store_buffering); break;
    case 5: test_order(message_passing); break;
    case 6: test_order(whole_stores); break;
    }
  return end(rounds);
}
