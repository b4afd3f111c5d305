// Time: sleeps and timers never end early, timerfd counts no more than there were, and the monotonic clocks never go
// backwards, on one processor, from one to another, and between threads.
#include "soak.h"
#include <poll.h>
#include <sys/timerfd.h>

static u64 of(clockid_t clock) {
  struct timespec t;
  must(clock_gettime(clock, &t), "clock_gettime");
  return t.tv_sec * 1000000000ULL + t.tv_nsec;
}
static struct timespec spec(u64 ns) {
  struct timespec t;
  t.tv_sec = ns / 1000000000, t.tv_nsec = ns % 1000000000;
  return t;
}

static void sleeps(void) {
  u64 length = 1000 * below(5000), start, took;
  struct timespec t;
  start = now();
  t = spec(length);
  must(clock_nanosleep(CLOCK_MONOTONIC, 0, &t, 0) ? -1 : 0, "clock_nanosleep");
  took = now() - start;
  if (took < length)
    wrong("a sleep of %llu ns took %llu", (unsigned long long)length, (unsigned long long)took);
  start = now() + length;
  t = spec(start);
  must(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0) ? -1 : 0, "clock_nanosleep");
  if (now() < start)
    wrong("a sleep until %llu ended at %llu", (unsigned long long)start, (unsigned long long)now());
}

static void timerfd(void) {
  static int fd = -1;
  u64 interval = 200000 + below(3000000), start, counted = 0, n, elapsed;
  struct itimerspec t;
  struct pollfd p;
  int i;
  if (fd < 0)
    fd = must(timerfd_create(CLOCK_MONOTONIC, 0), "timerfd_create");
  t.it_value = t.it_interval = spec(interval);
  start = now();
  must(timerfd_settime(fd, 0, &t, 0), "timerfd_settime");
  for (i = 0; i < 4; i++) {
    p.fd = fd, p.events = POLLIN;
    if (must(poll(&p, 1, 60000), "poll") != 1)
      wrong("a timerfd of %llu ns did not expire within a minute", (unsigned long long)interval);
    if (read(fd, &n, 8) != 8)
      wrong("read of a timerfd");
    counted += n;
    elapsed = now() - start;
    if (counted * interval > elapsed)
      wrong("timerfd: %llu expirations of %llu ns in %llu ns", (unsigned long long)counted, (unsigned long long)interval, (unsigned long long)elapsed);
  }
}

static void polls(void) {
  int ms = below(8);
  u64 start = now();
  must(poll(0, 0, ms), "poll");
  if (now() - start < ms * 1000000ULL)
    wrong("a poll of %d ms took %llu ns", ms, (unsigned long long)(now() - start));
}

// From one processor to the next.
static void hop(void) {
  static int next;
  cpu_set_t all, one;
  u64 raw = of(CLOCK_MONOTONIC_RAW), monotonic = now(), boot = of(CLOCK_BOOTTIME), t;
  int i, steps = 0;
  must(sched_getaffinity(0, sizeof all, &all), "sched_getaffinity");
  for (i = 0; i < 64 && steps < 4; i++, next = (next + 1) % 64) {
    if (!CPU_ISSET(next, &all))
      continue;
    steps++;
    CPU_ZERO(&one);
    CPU_SET(next, &one);
    must(sched_setaffinity(0, sizeof one, &one), "sched_setaffinity");
    if (sched_getcpu() != next)
      wrong("on processor %d instead of %d", sched_getcpu(), next);
    if ((t = of(CLOCK_MONOTONIC_RAW)) < raw)
      wrong("CLOCK_MONOTONIC_RAW went back by %llu ns on processor %d", (unsigned long long)(raw - t), next);
    raw = t;
    if ((t = now()) < monotonic)
      wrong("CLOCK_MONOTONIC went back by %llu ns on processor %d", (unsigned long long)(monotonic - t), next);
    monotonic = t;
    if ((t = of(CLOCK_BOOTTIME)) < boot)
      wrong("CLOCK_BOOTTIME went back by %llu ns on processor %d", (unsigned long long)(boot - t), next);
    boot = t;
  }
  must(sched_setaffinity(0, sizeof all, &all), "sched_setaffinity");
}

// Threads that hand on the latest time they know of.
static volatile u64 latest;
static void *watch(void *unused) {
  u64 known, t;
  int i;
  for (i = 0; i < 20000; i++) {
    known = latest;
    t = now();
    if (t < known)
      wrong("CLOCK_MONOTONIC is %llu ns behind what another thread has seen", (unsigned long long)(known - t));
    compare_exchange(&latest, known, t);
  }
  return 0;
}
static void threads(void) {
  pthread_t thread[2];
  int i;
  for (i = 0; i < 2; i++)
    must(pthread_create(&thread[i], 0, watch, 0) ? -1 : 0, "pthread_create");
  for (i = 0; i < 2; i++)
    pthread_join(thread[i], 0);
}

// Nobody sets the clock of this guest: the wall clock is the monotonic one and a constant, which each round narrows down.
static int64_t least = INT64_MIN, most = INT64_MAX;
static void wall_clock(void) {
  u64 before = now(), wall = of(CLOCK_REALTIME), after = now();
  if ((int64_t)(wall - after) > least)
    least = wall - after;
  if ((int64_t)(wall - before) < most)
    most = wall - before;
  if (least > most + 1000)
    wrong("CLOCK_REALTIME and CLOCK_MONOTONIC have parted by %lld ns", (long long)(least - most));
}

int main(int argc, char **argv) {
  u64 rounds = 0;
  begin("timers", argc, argv);
  for (; is_time_left(); rounds++) {
    sleeps(), timerfd(), polls(), hop(), wall_clock();
    if (rounds % 16 == 0)
      threads();
  }
  return end(rounds);
}
